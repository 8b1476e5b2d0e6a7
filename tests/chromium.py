"""Headless Chromium: a page opened once, or driven by the DevTools protocol over two pipes.

No driver and no web socket: Chromium reads commands from its file 3 and writes answers to its
file 4, each a JSON text that ends with a zero byte.
"""

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import time
from base64 import b64decode

import pytest

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip
SECONDS = 60.0  # that anything may take
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}


def browser():
    """Where Chromium is; the test is skipped where it is not."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium here to open the page in")
    return found


class Page:
    """A tab of a Chromium of its own.

    Attributes:
      problems: what the page has written to its console as an error, and its exceptions.
      requests: the addresses that it has asked.
    """

    def __init__(self, profile):
        theirs, self._to = os.pipe()
        self._from, answers = os.pipe()
        # Out of the way of the numbers that they shall have.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs, answers)]
        command = [browser(), *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        actions = [
            (os.POSIX_SPAWN_DUP2, ends[0], 3),
            (os.POSIX_SPAWN_DUP2, ends[1], 4),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        self._process = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
        for end in (theirs, answers, *ends):
            os.close(end)
        self._held, self._number, self._session = b"", 0, None
        self.problems, self.requests = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self):
        """End the browser."""
        with contextlib.suppress(OSError):  # it has gone already
            self._session = None
            self.call("Browser.close")
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._to)
        os.close(self._from)

    def call(self, method, **params):
        """The result of a command."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            command["sessionId"] = self._session
        os.write(self._to, json.dumps(command).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while True:
            answer = self._next(end)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer["method"], answer["params"]) if "method" in answer else None

    def _next(self, end):
        while b"\0" not in self._held:
            ready, *_ = select.select([self._from], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise TimeoutError("Chromium does not answer")
            if not (more := os.read(self._from, 1 << 20)):
                raise ConnectionError("Chromium has ended")
            self._held += more
        text, self._held = self._held.split(b"\0", 1)
        return json.loads(text)

    def _note(self, method, params):
        if method == "Runtime.exceptionThrown":
            self.problems.append(params["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(params["args"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, url):
        """Go to an address."""
        self.call("Page.navigate", url=url)

    def shown(self, *, width, height=900, colours="light"):
        """Show the page in a window of a size, on a system of these colours."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": colours}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def run(self, script):
        """The value of an expression, awaited if it is a promise."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script, seconds=SECONDS):
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.run(script):
                return value
            time.sleep(0.05)
        raise TimeoutError(f"{script}: not true; the page shows\n{self.text('body')}")

    def text(self, selector):
        """The text that an element shows; empty if there is no such element."""
        return self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def press(self, key):
        """Press a key."""
        code = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"Enter": "\r", " ": " "}.get(key)
        self.call(
            "Input.dispatchKeyEvent", type="keyDown", **code, **({"text": text} if text else {})
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def tab_to(self, selector):
        """Press Tab until an element has the focus."""
        for _ in range(100):
            self.press("Tab")
            if self.run(f"document.activeElement.matches({json.dumps(selector)})"):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    def write(self, text):
        """Write text where the focus is."""
        self.call("Input.insertText", text=text)

    def picture(self):
        """The window as a PNG."""
        return b64decode(self.call("Page.captureScreenshot", format="png")["data"])
