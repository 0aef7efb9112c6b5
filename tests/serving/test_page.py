"""The chat page in a real browser: an answer appears piece by piece, can be stopped, and goes wrong in words."""

import shutil
import time

import pytest

from palm_jax.serving.limits import Limits
from tests.support.server import alone, running, slowed
from tests.support.waiting import wait_until

CHROMIUM, DRIVER = shutil.which('chromium'), shutil.which('chromedriver')
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason='no browser: apt-get install chromium chromium-driver (.ci/run does)'
)


@pytest.fixture
def browser(tmp_path):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
                 '--disable-background-networking', '--disable-sync', f'--user-data-dir={tmp_path}'):  # fmt: skip
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.implicitly_wait(10)
    yield driver
    driver.quit()


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
