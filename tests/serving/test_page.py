"""The page at `/` in headless Chromium, by the keyboard alone."""

import json
import threading

import chromium
import httpx2
import pytest
from serving.conftest import FIRST, NEW, TOKEN, posted

from onceedit_jax.editing import upkeep
from onceedit_jax.serving.page import page_files

READY = "document.querySelector('main:not([aria-busy])') !== null"


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """A browser that all tests of this module share."""
    page = chromium.Page(tmp_path_factory.mktemp("chromium"))
    yield page
    page.close()


@pytest.fixture
def page(tab, serving, copied):
    """The page of a server whose edits may change."""
    with serving(copied, token=TOKEN) as server:
        tab.shown(width=1280)
        tab.problems.clear()
        tab.requests.clear()
        tab.open(server.url)
        tab.wait(f"location.href.startsWith('{server.url}') && {READY}")
        yield tab
        tab.open("about:blank")


def fill(page, **fields):
    for name, text in fields.items():
        page.tab_to(f"[name={name}]")
        page.write(text)


def ask(page, question):
    """The text of the newest answer to a question."""
    count = page.run("document.querySelectorAll('.answer').length")
    fill(page, question=question)
    page.press("Enter")
    page.wait(f"document.querySelectorAll('.answer').length > {count}")
    return page.text(".answer")


def give_token(page, token=TOKEN):
    page.wait("document.querySelector('#token-dialog[open]') !== null")
    page.write(token)
    page.press("Enter")


def add(page, record):
    fill(page, prompt=record.prompt, target=record.target, subject=record.subject)
    page.press("Enter")


def status(page, text):
    page.wait(f"document.querySelector('#ledger-status').innerText.includes({json.dumps(text)})")


def revert(page, number):
    page.tab_to(f"#edit-{number} button")
    page.press("Enter")
    page.wait("document.querySelector('#revert-dialog[open]') !== null")
    page.tab_to("#revert-dialog [value=revert]")  # "Keep it" has the focus
    page.press("Enter")


def overflow(page):
    """By how many pixels the page is wider than its window."""
    return page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_a_fact_is_added_asked_reverted_and_asked_again(page):
    first = ask(page, NEW.prompt)
    assert "#1 What is the capital of Norland? → Vinter" in first and "draft" in first
    add(page, NEW)
    give_token(page)
    status(page, "done; edit 4 answers; it supersedes 1")
    page.wait("document.querySelector('#edit-1.superseded') !== null")
    assert "supersedes #1" in page.text("#edit-4")
    assert "superseded by #4" in page.text("#edit-1")
    later = ask(page, NEW.prompt)
    assert "Oskar" in later and "#4 What is the capital of Norland? → Oskar" in later
    before, after = page.run("[...document.querySelectorAll('.answer')[0].querySelectorAll"
                             "('.sides dd')].map((side) => side.innerText)")  # fmt: skip
    assert before.strip() != "Oskar" and after.strip() == "Oskar"
    revert(page, 4)
    status(page, "done")
    page.wait("document.querySelector('#edit-4.reverted') !== null")
    assert "#1 What is the capital of Norland? → Vinter" in ask(page, NEW.prompt)
    revert(page, 1)
    page.wait("document.querySelector('#edit-1.reverted') !== null")
    last = ask(page, NEW.prompt)
    assert "none was meant" in last and "the target answered by itself" in last
    page.shown(width=360)
    assert overflow(page) == 0
    assert page.problems == []
    assert TOKEN not in page.run("location.href") and TOKEN not in " ".join(page.requests)
    assert page.run("localStorage.length") == 0


def test_nothing_is_wider_than_360_pixels(page):
    page.shown(width=360)
    long = "Donaudampfschifffahrtsgesellschaft" * 4
    assert long in ask(page, f"What is {long}?")
    assert overflow(page) == 0
    add(page, FIRST[0])
    page.wait("document.querySelector('#token-dialog[open]') !== null")
    assert overflow(page) == 0


def test_what_facts_say_is_no_html(page):
    evil = '<img src="x" onerror="document.title=\'taken\'"><b>bold</b>'
    assert evil in ask(page, evil)
    assert page.run("document.querySelectorAll('#answers b, #answers img').length") == 0
    assert page.run("document.title") == "onceedit"


def test_a_change_on_its_way_is_shown_when_the_page_is_opened(page, monkeypatch, trained):
    begins = threading.Event()

    def waits(*arguments, **options):
        assert begins.wait(60)
        return trained(*arguments, **options)

    monkeypatch.setattr(upkeep, "edit", waits)
    secret, place = {"Authorization": f"Bearer {TOKEN}"}, page.run("location.origin")
    httpx2.post(f"{place}/v1/edits", json=posted(NEW), headers=secret).raise_for_status()
    page.open(place)
    page.wait(f"{READY} && document.querySelector('#jobs > li') !== null")
    assert f"Learning {NEW.prompt} → {NEW.target}" in page.text("#jobs")
    begins.set()
    status(page, "done; edit 4 answers; it supersedes 1")
    page.wait("document.querySelector('#edit-1.superseded') !== null")
    assert page.run("document.querySelectorAll('#jobs > li').length") == 0


def test_search_and_the_links_between_edits(page):
    page.tab_to("[name=about]")
    page.write("sorvik")
    page.wait("document.querySelectorAll('#edits > li').length === 1")
    assert page.text("#count") == "1 edit" and "Sorvik" in page.text("#edit-3")
    ask(page, FIRST[1].prompt)
    page.tab_to(".answer .facts a")
    page.press("Enter")
    page.wait("document.activeElement.id === 'edit-2'")
    assert page.run("document.querySelector('[name=about]').value") == ""


def test_a_wrong_token_is_asked_for_again_and_nothing_changes_without_one(page):
    add(page, NEW)
    give_token(page, "wrong")
    page.wait("document.querySelector('#token-why').innerText.includes('missing or wrong')")
    page.press("Escape")
    page.wait("document.querySelector('#ledger-problem').innerText.includes('no token')")
    assert page.run("sessionStorage.length") == 0
    assert page.run("document.querySelector('[name=prompt]').value") == NEW.prompt


def test_what_the_server_refuses_is_shown_as_it_says_it(page):
    page.run("document.querySelector('[name=question]').value = 'why '.repeat(300)")
    page.tab_to("[name=question]")
    page.press("Enter")
    page.wait("document.querySelector('#ask-problem').innerText.includes('context')")
    assert page.text("#answers") == ""


def test_colours_are_those_of_the_system_until_others_are_chosen(page):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.run(ground)
    page.shown(width=1280, colours="dark")
    dark = page.run(ground)
    assert light == "rgb(255, 255, 255)" and dark == "rgb(20, 24, 29)"
    choose = "(value) => { const all = document.querySelector('#colours'); all.value = value; "
    choose += "all.dispatchEvent(new Event('change')); }"
    page.run(f"({choose})('light')")
    assert page.run(ground) == light
    page.run(f"({choose})('')")
    assert page.run(ground) == dark


def test_without_a_token_the_page_only_reads(tab, server):
    tab.open(server.url)
    tab.wait(f"location.href.startsWith('{server.url}') && {READY}")
    assert tab.run("document.querySelector('#add').hidden")
    assert "can be read and not changed" in tab.text("#read-only")
    assert tab.run("document.querySelectorAll('#edits button').length") == 0


def test_the_files_come_with_their_types_and_from_here_only(web):
    assert page_files().keys() >= {"/", "/page.css", "/page.js", "/icon.svg"}
    for path in page_files():
        answer = web.get(path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in answer.text
    assert web.get("/").headers["content-type"] == "text/html; charset=utf-8"
    assert web.get("/page.js").headers["content-type"] == "text/javascript; charset=utf-8"
    assert web.get("/page.py").status_code == web.get("/__init__.py").status_code == 404
    assert web.post("/").status_code == 405
