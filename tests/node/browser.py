"""Looks at a page with a real browser, and says in JSON what is to be seen.

    browser.py CHROMIUM URL FOLDER

Speaks the DevTools protocol by a pair of pipes. Leaves screenshots in FOLDER.
"""

import base64
import json
import os
import select
import subprocess
import sys
import tempfile
import time

WATCH = 7  # seconds that the page is looked at
PATIENCE = 60  # seconds for any answer of the browser

# What a view shows: its words, and whether it is wider than the screen.
LOOK = """JSON.stringify({
  title: document.title,
  text: document.body.innerText,
  width: document.documentElement.scrollWidth,
  screen: document.documentElement.clientWidth,
  cut: [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length,
  points: [...document.querySelectorAll('polyline')].map(e => e.getAttribute('points').split(' ').length),
  elements: document.querySelectorAll('img, iframe, link[rel=stylesheet], script[src]').length,
  colour: getComputedStyle(document.body).backgroundColor,
})"""


class Browser:
    def __init__(self, program, profile):
        ours, theirs = os.pipe(), os.pipe()
        options = "--headless --no-sandbox --disable-gpu --no-first-run --remote-debugging-pipe"
        # The shell gives the pipes the numbers 3 and 4 that the browser looks for.
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" {options} --user-data-dir="$1" 3<&{ours[0]} 4>&{theirs[1]}',
             program, profile],
            pass_fds=(ours[0], theirs[1]), stderr=subprocess.DEVNULL)
        os.close(ours[0])
        os.close(theirs[1])
        self.to, self.by, self.read, self.last = ours[1], theirs[0], b"", 0
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = None
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    session = None

    def ask(self, method, **parameters):
        self.last += 1
        message = {"id": self.last, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while True:
            while b"\0" not in self.read:
                if not select.select([self.by], [], [], max(0, end - time.monotonic()))[0]:
                    sys.exit(f"the browser does not answer {method}")
                more = os.read(self.by, 1 << 20)
                if not more:
                    sys.exit("the browser has ended")
                self.read += more
            text, self.read = self.read.split(b"\0", 1)
            answer = json.loads(text)
            if answer.get("id") == self.last:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']}")
                return answer["result"]

    def close(self):
        self.session = None
        os.write(self.to, b'{"id":0,"method":"Browser.close"}\0')
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def look(browser, folder, name, width, height, scheme):
    browser.ask("Emulation.setDeviceMetricsOverride", width=width, height=height,
                deviceScaleFactor=1, mobile=width < 600)
    browser.ask("Emulation.setEmulatedMedia",
                features=[{"name": "prefers-color-scheme", "value": scheme}])
    time.sleep(0.5)
    shot = browser.ask("Page.captureScreenshot", captureBeyondViewport=True)
    with open(os.path.join(folder, f"status-{name}.png"), "wb") as file:
        file.write(base64.b64decode(shot["data"]))
    seen = browser.ask("Runtime.evaluate", expression=LOOK)
    return json.loads(seen["result"]["value"])


def main():
    program, url, folder = sys.argv[1:]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        browser.ask("Page.enable")
        browser.ask("Page.navigate", url=url)
        time.sleep(WATCH)
        seen = {
            "desktop": look(browser, folder, "desktop", 1280, 1900, "light"),
            "dark": look(browser, folder, "dark", 1280, 1900, "dark"),
            "phone": look(browser, folder, "phone", 390, 2900, "light"),
            "small": look(browser, folder, "small", 360, 2900, "dark"),
        }
        browser.close()
    json.dump(seen, sys.stdout)


main()
