"""Downloads from a server on this machine that lies, cuts and dies; archives that mean harm."""
import hashlib
import http.server
import io
import os
import stat
import tarfile
import threading
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from biossl.cohorts.registry import Card, Cohort, Remote, at_hand
from biossl.data import fetch as room
from biossl.data.errors import FetchError
from biossl.data.fetch import download_size, fetch, plan, read_index, unpack

DEAD = "http://127.0.0.1:1"  # nobody listens on port 1
CLIMBING = ("../up.dat", "/up.dat", "a/../../up.dat", "..\\up.dat", "c:/up.dat")
FILES = {f"p0{k}/record {k}.dat": bytes([k]) * (1000 + k) for k in range(1, 6)}


def sha256(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Publisher:
    "A publisher's site: `files` by path; those in `cut` end early; `asked` counts the requests."

    def __init__(self, files):
        self.files, self.cut, self.asked = dict(files), set(), Counter()
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args): pass

            def do_GET(self):
                from urllib.parse import unquote
                name = unquote(self.path).lstrip("/")
                site.asked[name] += 1
                if name not in site.files: return self.send_error(404)
                content = site.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[:len(content) // 2] if name in site.cut else content)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.root = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def index(self, name="SHA256SUMS.txt"):
        lines = (f"{sha256(v)[7:]}  {k}\n" for k, v in self.files.items() if k != name)
        self.files[name] = "".join(lines).encode()


@pytest.fixture
def publisher(home):
    site = Publisher(FILES)
    site.index()
    yield site
    site.server.shutdown()
    site.server.server_close()


def card(site=None, **more):
    given = dict(name="tiny", title="", publisher="", version="", licence="", citation="", url="",
                 subjects=5, recordings=5, hours=1.0, signals={}, bytes=5015)
    if site is not None: given |= dict(roots=(site.root,), index="SHA256SUMS.txt")
    return Card(**(given | more))


def single(site, name, content=None, urls=None, **more):
    "A card of one file."
    site.files[name] = content if content is not None else site.files[name]
    return card(files=(Remote(name, urls or (f"{site.root}/{name}",), **more),))


def contents(folder):
    files = (o for o in Path(folder).rglob("*") if o.is_file())
    return {o.relative_to(folder).as_posix(): o.read_bytes() for o in files}


# ---- many small files ------------------------------------------------------------------------

def test_a_cohort_arrives_whole(publisher, home):
    folder = fetch(card(publisher), progress=False)
    assert folder == home / "cohorts" / "tiny" and contents(folder) == FILES
    assert [o.name for o in (home / "cohorts").iterdir()] == ["tiny"]


def test_what_is_here_is_not_fetched_again_and_what_is_damaged_is(publisher):
    folder = fetch(card(publisher), progress=False)
    publisher.asked.clear()
    fetch(card(publisher), progress=False)
    assert publisher.asked == {"SHA256SUMS.txt": 1}
    (folder / "p03/record 3.dat").write_bytes(bytes([9]) * 1003)  # right size, wrong bytes
    fetch(card(publisher), progress=False)
    assert publisher.asked == {"SHA256SUMS.txt": 2, "p03/record 3.dat": 1}
    assert contents(folder) == FILES


def test_a_cut_download_leaves_no_cohort_and_is_resumed_file_by_file(publisher, home):
    publisher.cut = {"p05/record 5.dat"}
    with pytest.raises(FetchError, match="record 5.dat.*127.0.0.1"):
        fetch(card(publisher), progress=False, workers=1)
    assert not (home / "cohorts" / "tiny").exists()
    kept = contents(home / "fetching" / "tiny")
    assert kept == {k: v for k, v in FILES.items() if k != "p05/record 5.dat"}
    publisher.cut, publisher.asked = set(), Counter()
    assert contents(fetch(card(publisher), progress=False)) == FILES
    assert publisher.asked == {"SHA256SUMS.txt": 1, "p05/record 5.dat": 1}


def test_a_part_is_fetched_and_later_completed(publisher):
    folder = fetch(card(publisher), only="p0[12]/*", progress=False)
    assert sorted(contents(folder)) == ["p01/record 1.dat", "p02/record 2.dat"]
    assert contents(fetch(card(publisher), progress=False)) == FILES
    assert publisher.asked["p01/record 1.dat"] == 1
    with pytest.raises(FetchError, match="matches"): fetch(card(publisher), only=["p9/*"])


def test_of_a_publishers_list_only_what_the_card_wants_is_fetched(publisher, home):
    folder = fetch(card(publisher, wanted=("p01/*", "p03/*")), progress=False)
    assert folder == home / "cohorts" / "tiny"
    assert sorted(contents(folder)) == ["p01/record 1.dat", "p03/record 3.dat"]


def test_a_cohort_without_what_its_reader_looks_for_is_not_taken(publisher, home):
    class Tiny(Cohort): card, layout = card(publisher), "p09"
    with pytest.raises(FetchError, match="layout: .*holds no p09"):
        fetch(Tiny(), progress=False)
    assert not (home / "cohorts" / "tiny").exists()
    Tiny.layout = "p03"
    assert at_hand(Tiny()) == "" and at_hand(Tiny()) != str(fetch(Tiny(), progress=False))
    assert at_hand(Tiny()) == str(home / "cohorts" / "tiny")


def test_size_is_told_before_and_no_means_no(publisher, home):
    told = []
    with pytest.raises(FetchError, match="not wanted"):
        fetch(card(publisher), progress=False, confirm=lambda o: told.append(o))
    assert set(publisher.asked) == {"SHA256SUMS.txt"} and not home.exists()
    assert told[0].bytes == 5015 and len(told[0].missing) == 5 and "5 files" in str(told[0])
    assert download_size(card(publisher)) == 5015
    fetch(card(publisher), only="p01/*", progress=False)
    assert plan(card(publisher)).bytes == 5015 * 4 // 5


def test_more_than_the_disk_holds_is_refused_before(publisher, home):
    with pytest.raises(FetchError, match="are free"):
        fetch(card(publisher, bytes=10**18), progress=False)
    assert set(publisher.asked) == {"SHA256SUMS.txt"}


@pytest.mark.parametrize("line", CLIMBING)
def test_a_list_that_climbs_out_is_refused_whole(publisher, home, line):
    publisher.files["SHA256SUMS.txt"] += f"{'0' * 64}  {line}\n".encode()
    with pytest.raises(FetchError, match="out of its folder"):
        fetch(card(publisher), progress=False)
    assert set(publisher.asked) == {"SHA256SUMS.txt"} and not home.exists()


@pytest.mark.parametrize("line", ["<html>", "0" * 64, f"{'0' * 63}g  a.dat", f"{'0' * 10}  a.dat"])
def test_a_list_that_is_none_is_refused(line):
    with pytest.raises(FetchError, match="checksum and path"): read_index(line, ("http://x",))


@pytest.mark.parametrize("path", ["../up.dat", "/up.dat"])
def test_a_card_that_climbs_out_is_refused(publisher, home, path):
    with pytest.raises(FetchError, match="out of its folder"):
        fetch(single(publisher, path, b"1"), progress=False)
    assert not home.exists()


def test_a_cohort_nobody_offers_says_so():
    with pytest.raises(FetchError, match="tiny.*nothing to fetch"): fetch(card(), progress=False)


# ---- single files and mirrors ----------------------------------------------------------------

def test_wrong_checksum_leaves_nothing_and_says_so(publisher, home):
    wrong = single(publisher, "table.csv", b"what came", checksum=sha256(b"what was meant"))
    with pytest.raises(FetchError, match="table.csv.*wrong checksum"): fetch(wrong, progress=False)
    assert contents(home) == {}


def test_wrong_size_is_seen_where_there_is_no_checksum(publisher, home):
    with pytest.raises(FetchError, match="wrong size: 9 bytes, not 12"):
        fetch(single(publisher, "table.csv", b"what came", bytes=12), progress=False)
    assert contents(home) == {}


def test_a_missing_file_names_every_mirror(publisher, home):
    urls = (f"{publisher.root}/gone.csv", f"{DEAD}/gone.csv")
    wrong = card(files=(Remote("gone.csv", urls),))
    with pytest.raises(FetchError) as told: fetch(wrong, progress=False)
    assert "404" in str(told.value) and "Connection" in str(told.value)
    assert all(o in str(told.value) for o in urls) and contents(home) == {}


@pytest.mark.parametrize("fault", ["dead", "missing", "cut", "wrong"])
def test_the_next_mirror_is_tried_whatever_was_wrong(publisher, fault):
    content = b"0123456789" * 100
    first = {"dead": f"{DEAD}/a.csv", "missing": f"{publisher.root}/nowhere/a.csv",
             "cut": f"{publisher.root}/cut.csv", "wrong": f"{publisher.root}/wrong.csv"}[fault]
    publisher.files |= {"cut.csv": content, "wrong.csv": content[::-1]}
    publisher.cut = {"cut.csv"}
    good = single(publisher, "a.csv", content, (first, f"{publisher.root}/a.csv"),
                  checksum=sha256(content))
    assert contents(fetch(good, progress=False)) == {"a.csv": content}


def test_a_dead_mirror_is_asked_once_and_not_for_each_file(publisher, monkeypatch):
    tried, download = [], room._download
    monkeypatch.setattr(room, "_download",
                        lambda url, *rest: tried.append(url) or download(url, *rest))
    both = card(publisher, roots=(DEAD, publisher.root))
    assert contents(fetch(both, progress=False, workers=1)) == FILES
    assert sum(o.startswith(DEAD) for o in tried) == 2  # for the list, and for the first file


# ---- archives --------------------------------------------------------------------------------

def tar_of(path, members, mode="w:gz"):
    "A tar of `(name, content)` or ready `TarInfo`s."
    with tarfile.open(path, mode) as tar:
        for o in members:
            if isinstance(o, tarfile.TarInfo): tar.addfile(o)
            else:
                info = tarfile.TarInfo(o[0])
                info.size = len(o[1])
                tar.addfile(info, io.BytesIO(o[1]))
    return path


def zip_of(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in members: z.writestr(name, content)
    return path


def special(name, kind, to=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def zipped_link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


MEMBERS = [("wrap/RECORDS", b"a\n"), ("wrap/p0/a.dat", b"1234"), ("wrap/wrap", b"same name")]
HARM = {
    "up": [("../up.dat", b"1")],
    "deep": [("a/../../up.dat", b"1")],
    "root": [("/tmp/up.dat", b"1")],
    "link out": [special("out", tarfile.SYMTYPE, "/etc")],
    "link then file": [special("d", tarfile.SYMTYPE, ".."), ("d/up.dat", b"1")],
    "chain": [("a/b", b"1"), special("a/c", tarfile.SYMTYPE, "."),
              special("a/c/d", tarfile.SYMTYPE, "../..")],
    "hard link": [special("passwd", tarfile.LNKTYPE, "/etc/passwd")],
    "device": [special("disk", tarfile.BLKTYPE)],
    "pipe": [special("pipe", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("make, name", [(tar_of, "a.tar.gz"), (zip_of, "a.zip"),
                                        (lambda p, m: tar_of(p, m, "w:xz"), "a.tar.xz")])
def test_archives_come_out_as_they_went_in(tmp_path, make, name):
    archive = make(tmp_path / name, MEMBERS)
    assert contents(unpack(archive, tmp_path / "plain")) == dict(MEMBERS)
    stripped = unpack(archive, tmp_path / "stripped", strip="wrap")
    assert contents(stripped) == {k.removeprefix("wrap/"): v for k, v in MEMBERS}


def test_strip_leaves_what_lies_beside_the_folder(tmp_path):
    archive = tar_of(tmp_path / "a.tar.gz", [*MEMBERS, ("LICENSE", b"free")])
    out = unpack(archive, tmp_path / "out", strip="wrap")
    assert contents(out) == dict(MEMBERS) | {"LICENSE": b"free"}


@pytest.mark.parametrize("harm", HARM)
def test_harm_in_a_tar_is_refused_and_nothing_is_left(tmp_path, harm):
    archive = tar_of(tmp_path / "a.tar.gz", [("first.dat", b"1"), *HARM[harm]])
    with pytest.raises(FetchError, match="a.tar.gz"): unpack(archive, tmp_path / "in" / "out")
    assert list((tmp_path / "in").iterdir()) == [] and not (tmp_path / "up.dat").exists()


@pytest.mark.parametrize("name", [*CLIMBING, zipped_link("link")], ids=str)
def test_harm_in_a_zip_is_refused_and_nothing_is_left(tmp_path, name):
    archive = zip_of(tmp_path / "a.zip", [("first.dat", b"1"), (name, b"/etc/passwd")])
    with pytest.raises(FetchError, match="a.zip"): unpack(archive, tmp_path / "in" / "out")
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.parametrize("make, name", [(tar_of, "a.tar.gz"), (zip_of, "a.zip")])
def test_a_bomb_is_refused_by_size_and_by_number(tmp_path, make, name):
    big = make(tmp_path / name, [("zeros", bytes(10_000_000))])
    assert big.stat().st_size < 100_000
    with pytest.raises(FetchError, match="room for"): unpack(big, tmp_path / "out", limit=1_000_000)
    many = make(tmp_path / f"many_{name}", [(f"f{k}", b"") for k in range(300)])
    with pytest.raises(FetchError, match="room for"):
        unpack(many, tmp_path / "out", limit=1_000_000)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make, name", [(tar_of, "a.tar.gz"), (zip_of, "a.zip")])
def test_a_damaged_archive_is_our_own_error(tmp_path, make, name):
    noise = [("a.dat", os.urandom(20_000)), ("b.dat", os.urandom(20_000))]
    whole = make(tmp_path / name, noise).read_bytes()
    flipped = bytearray(whole)
    for k in range(5_000, 15_000): flipped[k] ^= 255
    for content in (whole[:len(whole) // 2], b"", b"no archive at all", bytes(flipped)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FetchError, match=name): unpack(tmp_path / name, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(FetchError, match="no such"): unpack(tmp_path / "none.zip", tmp_path / "out")


def test_the_checksum_at_the_end_of_a_compressed_tar_is_read(tmp_path):
    archive = tar_of(tmp_path / "a.tar.gz", [("a.dat", b"1" * 20_000), ("b.dat", b"2" * 20_000)])
    content = bytearray(archive.read_bytes())
    content[-8] ^= 1  # first byte of gzip's CRC, far behind the last member
    archive.write_bytes(content)
    with pytest.raises(FetchError, match="CRC"): unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_archives_of_a_cohort_are_fetched_and_unpacked_once(publisher, home, tmp_path):
    one = tar_of(tmp_path / "one.tar.gz", MEMBERS).read_bytes()
    two = zip_of(tmp_path / "two.zip", [("wrap/p1/b.dat", b"5678")]).read_bytes()
    publisher.files |= {"one.tar.gz": one, "two.zip": two}
    both = card(files=tuple(Remote(k, (f"{publisher.root}/{k}",), len(v), sha256(v), unpack=True)
                            for k, v in {"one.tar.gz": one, "two.zip": two}.items()))
    for _ in range(2): folder = fetch(both, progress=False)
    assert publisher.asked == {"one.tar.gz": 1, "two.zip": 1}
    held = {k: v for k, v in contents(folder).items() if not k.startswith(room.NOTES)}
    assert held == dict(MEMBERS) | {"wrap/p1/b.dat": b"5678"}


def test_a_hostile_archive_of_a_cohort_leaves_no_cohort(publisher, home, tmp_path):
    content = tar_of(tmp_path / "a.tar.gz", [("../../up.dat", b"1")]).read_bytes()
    with pytest.raises(FetchError, match="out of its folder"):
        fetch(single(publisher, "a.tar.gz", content, unpack=True), progress=False)
    assert not (home / "cohorts").exists() and set(contents(home)) == {"fetching/tiny/a.tar.gz"}
