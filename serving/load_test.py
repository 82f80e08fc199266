"""How fast a server segments: clients ask without a pause, for a number of requests or seconds, whichever ends first.

python serving/load_test.py --clients 4 --requests 1000 --seconds 60 --output load_test

prints percentiles of the latency, throughput and errors by kind, and writes requests.csv (a row per request),
summary.json and load_test.png. Each client waits for its answer before it asks again, so an overloaded server is
asked less often: its latency under a fixed rate of requests would be worse than shown. The clients are threads of one
process. Exit status: 0; 1 if a request failed; 2 if the server cannot be used. Only this machine is a target, unless
--allow-remote says that the other one may be loaded.
"""

import argparse
import contextlib
import csv
import hashlib
import io
import ipaddress
import itertools
import json
import socket
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
from client import ServingError, add_server_arguments, connect
from PIL import Image, ImageFilter

PERCENTILES = 50, 90, 99
ANSWERED = {"label": "answered", "color": "#2b6cb0", "marker": "o", "s": 9, "alpha": 0.5}
FAILED = {"label": "failed", "color": "#c53030", "marker": "x", "s": 25}


class Request(NamedTuple):
    """One row of requests.csv. outcome: "ok" or the kind of error; answer: a hash of the masks."""

    client: int
    batch: int
    started: float  # seconds since the test began
    seconds: float
    outcome: str
    answer: str


def made_image(width, height, seed):
    """A JPEG of soft colours, as large as a photograph of the same size."""
    noise = np.random.default_rng(seed).integers(0, 256, [height // 8 + 1, width // 8 + 1, 3], np.uint8)
    picture = Image.fromarray(noise).resize([width, height], Image.Resampling.BICUBIC)
    content = io.BytesIO()
    picture.filter(ImageFilter.GaussianBlur(2)).save(content, "JPEG", quality=90)
    return content.getvalue()


def batches(images, size):
    """The images in groups of this size, each image the first of one."""
    endless = images + images * size
    return [endless[number : number + size] for number in range(len(images))]


def ask(client, images):
    """(outcome, hash of the masks) of one request."""
    try:
        answers = client.segment(images)
    except ServingError as error:
        return str(error.code or "no answer"), ""
    refused = [answer.status for answer in answers if not answer.ok]
    if refused:
        return f"refused: {refused[0]}", ""
    pixels = [answer.mask if answer.output is None else answer.output for answer in answers]
    return "ok", hashlib.sha256(b"".join(array.tobytes() for array in pixels)).hexdigest()[:16]


def run(given, groups):
    """All requests as rows, and the seconds they took together."""
    rows, turns = [], itertools.count()

    def work(number):
        while (turn := next(turns)) < given.requests and time.perf_counter() < begun + given.seconds:
            started = time.perf_counter()
            found = ask(clients[number], groups[turn % len(groups)])
            ended = time.perf_counter()
            rows.append(Request(number, turn % len(groups), started - begun, ended - started, *found))

    with contextlib.ExitStack() as stack, ThreadPoolExecutor(given.clients) as pool:
        clients = [stack.enter_context(connect(given)) for _ in range(given.clients)]
        list(pool.map(lambda client: ask(client, groups[0]), clients))  # connects; not counted
        begun = time.perf_counter()
        list(pool.map(work, range(given.clients)))
        seconds = time.perf_counter() - begun
    return sorted(rows, key=lambda row: row.started), seconds


def summarize(rows, seconds, batch):
    """Numbers of the whole test, ready for JSON. Latencies, in milliseconds, are those of answered requests."""
    errors = Counter(row.outcome for row in rows if row.outcome != "ok")
    times = 1000 * np.asarray([row.seconds for row in rows if row.outcome == "ok"])
    latency = {}
    if times.size:
        latency = {f"p{number}": float(np.percentile(times, number)) for number in PERCENTILES}
        latency |= {"mean": float(times.mean()), "max": float(times.max())}
    answers = {(row.batch, row.answer) for row in rows if row.outcome == "ok"}
    return {
        "requests": len(rows),
        "ok": int(times.size),
        "errors": dict(errors.most_common()),
        "seconds": seconds,
        "requests_per_second": times.size / seconds,
        "images_per_second": times.size * batch / seconds,
        "latency_ms": latency,
        "most_answers_to_one_request": max(Counter(batch for batch, _ in answers).values(), default=0),
    }


def describe(summary):
    print(f"{summary['ok']} of {summary['requests']} requests answered in {summary['seconds']:.1f} s: "
          f"{summary['requests_per_second']:.1f} requests/s, {summary['images_per_second']:.1f} images/s")  # fmt: skip
    if summary["latency_ms"]:
        print("latency: " + ", ".join(f"{name} {value:.1f} ms" for name, value in summary["latency_ms"].items()))
    for kind, count in summary["errors"].items():
        print(f"{count} x {kind}")
    if summary["most_answers_to_one_request"] > 1:
        print(f"the same image had {summary['most_answers_to_one_request']} different masks: more than one version?")


def write(rows, summary, folder):
    with open(folder / "requests.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(Request._fields)
        table.writerows(rows)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    draw(rows, summary, folder / "load_test.png")


def draw(rows, summary, path):
    """Latency over time, errors as crosses, and beside it the distribution on the same scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=[10, 4], layout="constrained")
    over_time, spread = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    for failed, style in enumerate([ANSWERED, FAILED]):
        chosen = [row for row in rows if (row.outcome != "ok") == failed]
        if chosen:
            style = {**style, "label": f"{style['label']} ({len(chosen)})"}
            over_time.scatter([row.started for row in chosen], [1000 * row.seconds for row in chosen], **style)
    times = [1000 * row.seconds for row in rows if row.outcome == "ok"]
    spread.hist(times, bins=40, orientation="horizontal", color="#2b6cb0", alpha=0.5)
    for name, style in zip((f"p{number}" for number in PERCENTILES), ["-", "--", ":"], strict=True):
        if value := summary["latency_ms"].get(name):
            spread.axhline(value, color="black", linestyle=style, linewidth=1, label=f"{name} {value:.1f} ms")
    over_time.set(xlabel="seconds since the start", ylabel="latency (ms)", ylim=[0, None])
    over_time.set_title(f"{summary['requests_per_second']:.1f} requests per second", loc="left")
    spread.set(xlabel="requests")
    for axes in over_time, spread:
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right", bbox_to_anchor=[1, 1], frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def require_loopback(given):
    """A ServingError if the target is not this machine."""
    address = given.grpc or given.url
    host = urlsplit(address if "//" in address else f"//{address}").hostname
    try:
        addresses = {found[4][0] for found in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        addresses = set()
    if not addresses or not all(ipaddress.ip_address(address).is_loopback for address in addresses):
        raise ServingError(f"{host} is not this machine; --allow-remote if you may load it")


def whole(least):
    def read(text):
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"at least {least}")
        return int(text)

    return read


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_server_arguments(parser)
    parser.add_argument("--clients", type=whole(1), default=4, help="at the same time (default: %(default)s)")
    parser.add_argument("--requests", type=whole(1), default=1000, help="at most, of all (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="at most (default: %(default)s)")
    parser.add_argument("--batch", type=whole(1), default=1, help="images in a request (default: %(default)s)")
    parser.add_argument("--images", type=Path, nargs="+", help="JPEG or PNG files (default: 8 that are made)")
    parser.add_argument("--size", type=whole(1), nargs=2, default=[256, 256], metavar=("WIDTH", "HEIGHT"),
                        help="of images that are made (default: 256 256)")  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("load_test"), help="folder (default: %(default)s)")
    parser.add_argument("--allow-remote", action="store_true", help="load a server on another machine")
    given = parser.parse_args(arguments)
    try:
        if not given.allow_remote:
            require_loopback(given)
        given.output.mkdir(parents=True, exist_ok=True)
        images = [path.read_bytes() for path in given.images or []]
        with connect(given) as client:
            client.require_ready()
        images = images or [made_image(*given.size, seed) for seed in range(8)]
        rows, seconds = run(given, batches(images, given.batch))
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    summary = summarize(rows, seconds, given.batch)
    describe(summary)
    write(rows, summary, given.output)
    print(f"wrote {given.output}")
    return 1 if summary["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
