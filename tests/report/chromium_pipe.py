"""A headless Chromium that is driven over its debugging pipe: real keys, real downloads, nothing listens on a port."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time


def find_browser():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    def __init__(self, program, folder):
        to_browser, from_browser = os.pipe(), os.pipe()
        # The browser reads commands at 3 and writes answers to 4; ours must lie elsewhere before they are put there.
        reads, writes = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_browser[0], from_browser[1]))
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
        flags += " --disable-component-update --disable-quic --window-size=1400,900 --remote-debugging-pipe"

        def place():
            os.dup2(reads, 3)
            os.dup2(writes, 4)

        self.process = subprocess.Popen(
            [program, *flags.split(), f"--user-data-dir={folder / 'profile'}", "about:blank"],
            preexec_fn=place, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (to_browser[0], from_browser[1], reads, writes):
            os.close(end)
        self.write_end, self.read_end = to_browser[1], from_browser[0]
        self.buffer, self.number, self.events, self.session = b"", 0, [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "DOM", "Accessibility", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session is not None and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self.events.append(answer)

    def wait(self, method):
        while True:
            for place, event in enumerate(self.events):
                if event.get("method") == method:
                    del self.events[: place + 1]
                    return event["params"]
            self.events.append(self._receive())

    def _receive(self, seconds=60):
        end = time.monotonic() + seconds
        while b"\0" not in self.buffer:
            if not select.select([self.read_end], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            part = os.read(self.read_end, 1 << 20)
            if not part:
                raise EOFError("the browser has gone")
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def open(self, url):
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.wait("Page.loadEventFired")

    def run(self, script):
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, *keys, release=True):
        for key in keys:
            named = len(key) > 1
            code = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9, "End": 35}.get(key, 0)
            down = {
                "type": "rawKeyDown" if named else "keyDown",
                "key": key,
                "windowsVirtualKeyCode": code or ord(key.upper()[0]),
            }
            self.call("Input.dispatchKeyEvent", **down, **({} if named else {"text": key}))
            if release:
                self.call("Input.dispatchKeyEvent", **{**down, "type": "keyUp"})

    def close(self):
        self.call("Browser.close")
        self.process.wait(20)
        os.close(self.write_end)
        os.close(self.read_end)
