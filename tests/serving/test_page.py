"""The chat page in a real browser: an answer appears piece by piece, can be stopped, and goes wrong in words."""

import shutil
import time

import numpy as np
import pytest

from palm_jax.serving.limits import Limits
from palm_jax.serving.models import ServedModel
from tests.support import http
from tests.support.server import alone, running, slowed
from tests.support.waiting import wait_until

CHROMIUM, DRIVER = shutil.which('chromium'), shutil.which('chromedriver')
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason='no browser: apt-get install chromium chromium-driver (.ci/run does)'
)


@pytest.fixture(scope='module')
def chromium(tmp_path_factory):
    from selenium import webdriver

    options, folder = webdriver.ChromeOptions(), tmp_path_factory.mktemp('browser')
    options.binary_location = CHROMIUM
    for flag in ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
                 '--disable-background-networking', '--disable-sync', f'--user-data-dir={folder}'):  # fmt: skip
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.implicitly_wait(10)
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium):
    """The browser of all tests, with a window of the usual size, an empty log, and nothing stored."""
    chromium.get('about:blank')
    chromium.set_window_size(1200, 900)
    chromium.get_log('browser')
    chromium.execute_cdp_cmd('Storage.clearDataForOrigin', {'origin': '*', 'storageTypes': 'all'})
    return chromium


def by_id(browser, name):
    return browser.find_element('id', name)


def set_value(browser, name, value):
    browser.execute_script('document.getElementById(arguments[0]).value = arguments[1]', name, value)


def answers(browser):
    return [e.get_attribute('textContent') for e in browser.find_elements('css selector', 'article.assistant')]


def ask(browser, text):
    by_id(browser, 'text').send_keys(text + '\n')


def test_a_chat_on_a_phone(served, browser):
    with running(served) as site:
        browser.set_window_size(500, 800)  # as narrow as the browser gets
        browser.get(site.url)
        wait_until(lambda: len(browser.find_elements('css selector', '#model option')) == 2)
        width, shown = browser.execute_script('return [document.documentElement.scrollWidth, innerWidth]')
        assert width <= shown
        set_value(browser, 'temperature', '0')
        set_value(browser, 'max_tokens', '9')
        ask(browser, 'Hello')
        wait_until(lambda: by_id(browser, 'send').is_displayed() and answers(browser))
        assert answers(browser) == [alone(served, 'base', 'user: Hello\nassistant:', 9).lstrip()]
        # The next message is read with what has been said, and another model can be asked.
        ask(browser, 'And?')
        wait_until(lambda: by_id(browser, 'send').is_displayed() and len(answers(browser)) == 2)
        said = answers(browser)
        shown = f'user: Hello\nassistant: {said[0]}\nuser: And?\nassistant:'
        assert said[1] == alone(served, 'base', shown, 9).lstrip()
        by_id(browser, 'new').click()
        assert not browser.find_elements('css selector', 'article') or not answers(browser)
        assert not [e for e in browser.get_log('browser') if 'favicon' not in e['message']]


def is_hidden(browser, name):
    return browser.execute_script('return document.getElementById(arguments[0]).hidden', name)


def choose(browser, name):
    browser.execute_script(
        "const m = document.getElementById('model'); m.value = arguments[0]; m.dispatchEvent(new Event('change'))", name
    )


def test_every_kind_of_model_and_texts_that_look_like_markup(kinds, browser):
    markup = '<img src=x onerror="document.title=1"> & <b>🙂 Ann</b>'
    named = {'<i>"text"</i>': 'text'} | {name: name for name in kinds}
    named = {name: ServedModel(name, kinds[kind].model) for name, kind in named.items()}
    named['tags'].model.params['head']['bias'] = np.array([-9, 9, 0], np.float32)  # every word is an entity
    with running(named) as site:
        browser.get(site.url)
        wait_until(lambda: len(browser.find_elements('css selector', '#model option')) == len(named))
        options = [e.get_attribute('textContent') for e in browser.find_elements('css selector', '#model option')]
        assert '<i>"text"</i> (text)' in options

        def last(kind):
            wait_until(lambda: by_id(browser, 'send').is_displayed())
            return browser.find_elements('css selector', f'article.{kind}')[-1]

        for name in ('classes', 'labels'):
            choose(browser, name)
            assert is_hidden(browser, 'sampling') and is_hidden(browser, 'second')
            set_value(browser, 'text', markup)
            by_id(browser, 'text').send_keys('\n')
            wait_until(lambda: browser.find_elements('css selector', 'article.assistant .bar'))
            assert last('user').get_attribute('textContent') == markup
            bars = last('assistant').find_elements('css selector', '.bar')
            (expected,) = named[name].model.predict([markup])
            shown = {b.find_elements('css selector', 'span')[0].get_attribute('textContent'): b for b in bars}
            assert shown.keys() == expected.keys()  # one of the names is <b>&
            for label, bar in shown.items():
                width = bar.find_element('css selector', 'i').value_of_css_property('width')
                assert bar.text.endswith(f'{100 * expected[label]:.1f}%') and float(width[:-2]) > 0
            by_id(browser, 'new').click()
        choose(browser, 'tags')
        set_value(browser, 'text', markup)
        by_id(browser, 'text').send_keys('\n')
        wait_until(lambda: browser.find_elements('css selector', 'article.assistant mark'))
        (entities,) = named['tags'].model.extract_entities([markup])
        marks = [m.get_attribute('textContent') for m in last('assistant').find_elements('css selector', 'mark')]
        assert entities and marks == [entity['text'] + entity['type'] for entity in entities]
        choose(browser, 'pairs')
        set_value(browser, 'text', markup)
        set_value(browser, 'second', markup)
        by_id(browser, 'second').send_keys('\n')
        wait_until(lambda: 'pair' in browser.page_source and len(answers(browser)) == 2)
        (number,) = named['pairs'].model.predict([markup], [markup])
        assert float(answers(browser)[-1]) == pytest.approx(number, abs=1e-4)
        choose(browser, '<i>"text"</i>')
        assert not is_hidden(browser, 'sampling') and is_hidden(browser, 'second')
        set_value(browser, 'temperature', '0')
        set_value(browser, 'max_tokens', '5')
        ask(browser, 'Hi')
        wait_until(lambda: by_id(browser, 'send').is_displayed() and len(answers(browser)) == 3)
        choose(browser, 'text')
        set_value(browser, 'text', 'x' * 90)  # the message of the error quotes nothing as markup
        by_id(browser, 'text').send_keys('\n')
        wait_until(lambda: browser.find_elements('css selector', 'article.error'))
        assert browser.title == 'palm_jax' and not browser.find_elements('css selector', 'article img, article b')
        loaded = [e for e in browser.get_log('browser') if 'favicon' not in e['message'] and '400' not in e['message']]
        assert not loaded, loaded
        headers = http.get(site.url).headers
        assert "frame-ancestors 'none'" in headers['content-security-policy']


def test_stop_frees_the_place_and_errors_are_read(served, browser):
    with running(served, Limits(token='secret'), slots=1) as site:
        browser.get(site.url)
        wait_until(lambda: browser.find_elements('css selector', 'article.error'))
        assert 'The API key is missing or wrong' in browser.find_element('css selector', 'article.error').text
        browser.find_element('css selector', 'summary').click()
        by_id(browser, 'key').send_keys('secret\t')
        wait_until(lambda: len(browser.find_elements('css selector', '#model option')) == 2)
        slowed(site.engine, 0.3)
        ask(browser, 'Hello')
        wait_until(lambda: any(answers(browser)))  # something, before all of it
        by_id(browser, 'stop').click()
        wait_until(lambda: by_id(browser, 'send').is_displayed())
        wait_until(lambda: site.engine.num_active == 0, seconds=3)
        length = len(answers(browser)[0])
        time.sleep(0.8)
        assert len(answers(browser)[0]) == length
        ask(browser, 'x' * 70)
        wait_until(lambda: len(browser.find_elements('css selector', 'article.error')) == 2)
        assert 'the context length is 64 tokens' in browser.find_elements('css selector', 'article.error')[1].text
