"""Token ids with a meaning of their own, the same in every vocabulary.

As in T5, padding and the beginning of a sequence share id 0: decoder inputs are the targets shifted right after it.
"""

PAD_ID = 0
BOS_ID = PAD_ID
EOS_ID = 1
UNK_ID = 2
