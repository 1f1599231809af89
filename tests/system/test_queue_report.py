# SPDX-License-Identifier: GPL-2.0-or-later
"""polder simulate queue --report: one page that needs nothing else, whose table and pictures are right on a log worked out by hand."""
import re
import subprocess
import xml.etree.ElementTree as tree

import polderlib
import pytest

# Two processors. 1 takes both for an hour, then 2 and 3 run side by side for an hour, and each has waited an hour.
LOG = """; MaxProcs: 2
1 0 -1 3600 2 -1 -1 2 3600 -1 1 1 -1 -1 1 -1 -1 -1
2 0 -1 3600 1 -1 -1 1 3600 -1 1 1 -1 -1 1 -1 -1 -1
3 0 -1 3600 1 -1 -1 1 3600 -1 1 1 -1 -1 1 -1 -1 -1
"""
SVG = {"svg": "http://www.w3.org/2000/svg"}


def simulate(tmp_path, *words, log=LOG, status=0):
    (tmp_path / "log.swf").write_text(log)
    page = tmp_path / "report.html"
    done = subprocess.run([polderlib.build_directory() / "src/simulator/polder-simulate", "queue", *words, "--report", page,
                           tmp_path / "log.swf"], capture_output=True, text=True, check=False)
    assert done.returncode == status, (done.stdout, done.stderr)
    return page.read_text() if status == 0 else done.stderr


def pictures(page):
    """Each picture by its title; it must be well-formed."""
    found = [tree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.S)]
    return {picture.get("aria-label"): picture for picture in found}


def paths(picture, kind):
    return [path.get("d") for path in picture.iter("path") if path.get("class") == kind]


def test_by_hand(tmp_path):
    page = simulate(tmp_path, "--policy", "fcfs", "--backfill", "none")
    assert "<h2>log.swf: 3 jobs, 2 processors</h2>" in page
    # Slowdowns 1, 2, 2; waits 0, 1 h, 1 h; 2 + 1 + 1 processor hours of 2 x 2.
    cells = re.findall(r"<td>(.*?)</td>", page)
    assert cells == ["fcfs", "1.67", "0.67 h", "1.0 h", "1.0 h", "100.0 %", "0"]
    found = pictures(page)
    assert list(found) == ["Wait, of those submitted then", "Bounded slowdown, of those submitted then", "How many wait",
                           "Use of the machine", "Slowdown: how many jobs have at most so much", "fcfs"]
    # The frame is 76 to 840 and 268 (row 0) up to 34 (row 2); two hours, so that one ends at 458, and one row at 151.
    assert sorted(paths(found["fcfs"], "bar")) == ["M458.0 151.0H840.0V268.0H458.0z", "M458.0 34.0H840.0V151.0H458.0z",
                                                   "M76.0 34.0H458.0V268.0H76.0z"]
    # Two wait through the first hour, nobody through the second.
    curve = [tuple(map(float, point.split())) for point in re.findall(r"[ML]([0-9.]+ [0-9.]+)", paths(found["How many wait"], "line")[0])]
    high, low = curve[0][1], curve[-1][1]
    assert low == 268 and {height for at, height in curve if at < 455} == {high} and {height for at, height in curve if at > 461} == {low}


def test_policies_stand_side_by_side(tmp_path):
    words = ("--policy", "fcfs,sjf,srtf", "--backfill", "none,easy,conservative", "--workers")
    page = simulate(tmp_path, *words, "1")
    assert page == simulate(tmp_path, *words, "4")
    assert "http" not in page and "nan" not in page.lower() and "inf" not in page.lower()
    for name in ("fcfs, none", "fcfs, easy", "sjf, none", "srtf, easy"):
        assert f"<td>{name}</td>" in page and f"{name}</text>" in page
    # Two rows of names: the picture is taller by one.
    assert pictures(page)["How many wait"].get("viewBox") == "0 0 860 342"


def test_who_gives_way_is_not_drawn(tmp_path):
    # The second is shorter than what is left of the first.
    log = LOG.splitlines()[0] + "\n1 0 -1 3600 2 -1 -1 2 3600 -1 1 1 -1 -1 1 -1 -1 -1\n2 60 -1 60 2 -1 -1 2 60 -1 1 1 -1 -1 1 -1 -1 -1\n"
    found = pictures(simulate(tmp_path, "--policy", "fcfs,srtf", log=log))
    assert "fcfs" in found and "srtf" not in found
    assert [bool(path) for path in paths(found["Use of the machine"], "line")][:2] == [True, False]


@pytest.mark.parametrize("words", [("--sequence", "0:2"), ("--tune", "bsld")])
def test_what_it_does_not_go_with(tmp_path, words):
    assert "--report shows whole logs" in simulate(tmp_path, *words, status=2)

