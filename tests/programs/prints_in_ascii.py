"""Starts programs, each as the command line starts it: `python -m tests.programs.prints_in_ascii GIN_FILE TEXT`."""

import contextlib
import locale
import sys

from palm_jax.cli import command_line
from palm_jax.cli import main as programs

gin_file, text = sys.argv[1:]
of_run = [f'--gin_file={gin_file}', '--gin.VOCABULARY=bytes', f'--gin.TRAIN_FILES={text}']
with open(f'{gin_file}.loop', 'w', encoding='utf-8') as loop:
    loop.write(f"include '{gin_file}.loop'\n")
commands = [
    ['help'],
    ['bindings', 'LORA_RANK'],
    ['train', *of_run, '--explain'],
    ['inspect', 'python_stdlib', *of_run[1:], '--gin_file=gin/objectives/prefix_lm.gin', '--batches=2'],
    ['train', f'--gin_file={gin_file}.loop'],
]
print(f'{sys.stdout.encoding}, {locale.getencoding().lower().replace("ansi_x3.4-1968", "ascii")}')
for arguments in commands:
    sys.argv[1:] = arguments
    with contextlib.suppress(SystemExit):
        command_line.run(programs.main)
