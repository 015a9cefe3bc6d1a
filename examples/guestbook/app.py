"""A guestbook: the smallest app that shows what Pontoon does with a Python app.

Entries are kept in a file beside this one. A servo's directory is private to it and gone with it,
so each servo has its own book: the page says which one you are reading.
"""

import json
import os
import threading
import time
from pathlib import Path

from flask import Flask, redirect, render_template, request

BOOK = Path(__file__).with_name("entries.json")
ENTRIES_MAX = 100
NAME_MAX = 40
MESSAGE_MAX = 280

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 16 * 1024
write_lock = threading.Lock()


def entries():
    try:
        return json.loads(BOOK.read_text())
    except FileNotFoundError:
        return []


def add_entry(name, message):
    with write_lock:
        kept = [{"name": name, "message": message, "at": time.strftime("%H:%M")}, *entries()][:ENTRIES_MAX]
        # A rename, so that no reader sees half a file.
        part = BOOK.with_suffix(".part")
        part.write_text(json.dumps(kept))
        part.replace(BOOK)


def place():
    """Where this copy runs, as Pontoon tells it; outside Pontoon the words stay honest."""
    return {
        "release": os.environ.get("PONTOON_RELEASE", "no release"),
        "servo": os.environ.get("PONTOON_SERVO", "no servo"),
        "host": os.environ.get("PONTOON_HOST", "this machine"),
    }


@app.get("/")
def read():
    return render_template("book.html", entries=entries(), name_max=NAME_MAX, message_max=MESSAGE_MAX, **place())


@app.post("/")
def write():
    message = request.form.get("message", "").strip()[:MESSAGE_MAX]
    if message:
        add_entry(request.form.get("name", "").strip()[:NAME_MAX] or "someone", message)
    return redirect("/", code=303)


@app.get("/up")
def up():
    return "up\n", {"Content-Type": "text/plain"}


@app.get("/slow")
def slow():
    """Answers after a while, to watch a deployment let requests in flight end."""
    seconds = min(max(request.args.get("seconds", 2.0, type=float), 0.0), 20.0)
    time.sleep(seconds)
    return f"{place()['release']} answered after {seconds:g} s\n", {"Content-Type": "text/plain"}
