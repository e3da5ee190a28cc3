"""Fetching and unpacking: what comes from the internet is verified, cannot write outside its folder,
and leaves nothing half-written."""
from __future__ import annotations

import bz2
import hashlib
import io
import os
import stat
import tarfile
import threading
import time
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from xfer_course import data
from xfer_course.data import DataFileError, archives, catalogue, file_hash, unpack


def zip_archive(path: Path, *members: tuple[str, bytes], mode: int = 0o100644) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def tar_archive(path: Path, *members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, link: str = "",
                mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(content))
    return path


def everything_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


HONEST = {"good.zip": zip_archive} | {f"good.tar{f'.{kind}' if kind else ''}": partial(tar_archive, mode=f"w:{kind}")
                                      for kind in ("", "gz", "bz2", "xz")}


@pytest.mark.parametrize("name, make", HONEST.items())
def test_an_honest_archive_is_unpacked(tmp_path, name, make):
    archive = make(tmp_path / name, ("a/1.txt", b"one"), ("a/b/2.txt", b"two"))
    unpack(archive, tmp_path / "deep/out")
    assert everything_below(tmp_path / "deep") == {"out", "out/a", "out/a/1.txt", "out/a/b", "out/a/b/2.txt"}
    assert (tmp_path / "deep/out/a/b/2.txt").read_bytes() == b"two"


NAMES_THAT_LEAD_OUT = [
    "../outside.txt", "a/../../outside.txt", "/tmp/outside.txt", "//server/outside.txt",
    r"C:\outside.txt", "C:outside.txt", r"..\outside.txt", r"a\..\..\outside.txt", r"\outside.txt",
]


@pytest.mark.parametrize("name", NAMES_THAT_LEAD_OUT)
@pytest.mark.parametrize("make", [zip_archive, tar_archive])
def test_names_that_lead_out_are_refused(tmp_path, make, name):
    archive = make(tmp_path / "bad", ("good.txt", b"good"), (name, b"gotcha"))
    before = everything_below(tmp_path)
    with pytest.raises(DataFileError, match="would be written outside the folder"):
        unpack(archive, tmp_path / "out")
    assert everything_below(tmp_path) == before and not Path("/tmp/outside.txt").exists()


LINKS_AND_DEVICES = {
    "symbolic link": (tarfile.SYMTYPE, "/etc"),
    "symbolic link inside": (tarfile.SYMTYPE, "good.txt"),
    "hard link": (tarfile.LNKTYPE, "../outside.txt"),
    "character device": (tarfile.CHRTYPE, ""),
    "block device": (tarfile.BLKTYPE, ""),
    "pipe": (tarfile.FIFOTYPE, ""),
}


@pytest.mark.parametrize("case", LINKS_AND_DEVICES)
def test_links_and_devices_in_a_tar_archive_are_refused(tmp_path, case):
    kind, link = LINKS_AND_DEVICES[case]
    archive = tar_archive(tmp_path / "bad.tar", ("x", b""), kind=kind, link=link)
    with pytest.raises(DataFileError, match="'x' is a link, a device or encrypted"):
        unpack(archive, tmp_path / "out")
    assert everything_below(tmp_path) == {"bad.tar"}


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFIFO | 0o644, stat.S_IFCHR | 0o644])
def test_links_and_devices_in_a_zip_archive_are_refused(tmp_path, mode):
    archive = zip_archive(tmp_path / "bad.zip", ("x", b"/etc"), mode=mode)
    with pytest.raises(DataFileError, match="'x' is a link, a device or encrypted"):
        unpack(archive, tmp_path / "out")
    assert everything_below(tmp_path) == {"bad.zip"}


def test_an_encrypted_zip_archive_is_refused(tmp_path):
    archive = zip_archive(tmp_path / "bad.zip", ("x", b"secret"))
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    archive.write_bytes(content)
    with pytest.raises(DataFileError, match="encrypted"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("make", [zip_archive, partial(tar_archive, mode="w:gz")])
def test_archives_that_swell_are_refused(tmp_path, make):
    archive = make(tmp_path / "bomb", ("zeros", b"\0" * 5_000_000))
    assert archive.stat().st_size < 50_000
    with pytest.raises(DataFileError, match="more than 200,000 files or 1,000,000 bytes"):
        unpack(archive, tmp_path / "out", max_bytes=1_000_000)
    assert everything_below(tmp_path) == {"bomb"}


def test_a_size_that_is_announced_is_refused_before_it_is_read(tmp_path):
    with tarfile.open(tmp_path / "huge.tar", "w") as archive:
        info = tarfile.TarInfo("huge")
        info.size = 2**50
        archive.fileobj.write(info.tobuf())  # the header alone, without the bytes that it announces
    with pytest.raises(DataFileError, match="4,294,967,296 bytes"):
        unpack(tmp_path / "huge.tar", tmp_path / "out")


def test_a_zip_member_larger_than_announced_is_refused(tmp_path):
    archive = zip_archive(tmp_path / "liar.zip", ("x", b"\0" * 100_000))
    content = bytearray(archive.read_bytes())
    at = content.index(b"PK\x01\x02") + 24  # the size in the central directory
    content[at:at + 4] = (10).to_bytes(4, "little")
    archive.write_bytes(content)
    with pytest.raises(DataFileError, match="liar.zip"):
        unpack(archive, tmp_path / "out")
    assert everything_below(tmp_path) == {"liar.zip"}


@pytest.mark.parametrize("make", [zip_archive, tar_archive])
def test_too_many_members_are_refused(tmp_path, make):
    archive = make(tmp_path / "many", *((f"{i}", b"") for i in range(11)))
    with pytest.raises(DataFileError, match="more than 10 files"):
        unpack(archive, tmp_path / "out", max_members=10)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("make", [zip_archive, tar_archive])
def test_names_that_occur_twice_are_refused(tmp_path, make):
    archive = make(tmp_path / "twice", ("a/x", b"1"), ("a//x", b"2"))
    with pytest.raises(DataFileError, match="occurs twice"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("make, name", [
    (zip_archive, "x.zip"),
    (partial(tar_archive, mode="w:gz"), "x.tar.gz"),
    (partial(tar_archive, mode="w:xz"), "x.tar.xz"),
])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.9])
def test_truncated_archives_are_refused(tmp_path, make, name, keep):
    archive = make(tmp_path / name, *((f"{i}", os.urandom(5_000)) for i in range(10)))
    content = archive.read_bytes()
    archive.write_bytes(content[:keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(DataFileError, match=f"{name} is corrupt or truncated"):
        unpack(archive, tmp_path / "out")
    assert everything_below(tmp_path) == {name}


def test_a_flipped_bit_in_a_zip_archive_is_noticed_and_nothing_stays(tmp_path):
    archive = zip_archive(tmp_path / "x.zip", ("first", b"fine"), ("second", os.urandom(5_000)))
    content = bytearray(archive.read_bytes())
    content[2_000] ^= 1
    archive.write_bytes(content)
    with pytest.raises(DataFileError, match="x.zip"):
        unpack(archive, tmp_path / "out")
    assert everything_below(tmp_path) == {"x.zip"}


def test_an_existing_folder_is_not_touched(tmp_path):
    archive = zip_archive(tmp_path / "x.zip", ("x", b"new"))
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="exists already"):
        unpack(archive, tmp_path / "out")
    assert everything_below(tmp_path) == {"x.zip", "out"}


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    archive = zip_archive(tmp_path / "x.zip", ("x", b"\0" * 1000))
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: type("usage", (), {"free": 999}))
    with pytest.raises(OSError, match="not enough space for 1,000 bytes"):
        unpack(archive, tmp_path / "out")
    assert everything_below(tmp_path) == {"x.zip"}


def test_reading_an_archive_checks_it_too(tmp_path):
    tar_archive(tmp_path / "cifar10-jpeg.tar.xz", ("train/cat/../../../x.jpg", b"x"), mode="w:xz")
    with pytest.raises(DataFileError, match="outside the folder"):
        data.cifar10(root=tmp_path)
    zip_archive(tmp_path / "bsds500-images.zip", ("train/x.jpg", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777)
    with pytest.raises(DataFileError, match="is a link"):
        data.bsds500(root=tmp_path)


def test_members_that_do_not_belong_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XFER_CACHE", str(tmp_path / "cache"))
    tar_archive(tmp_path / "cifar10-jpeg.tar.xz", ("train/unicorn/0001.jpg", b"x"), mode="w:xz")
    with pytest.raises(DataFileError, match="cifar10-jpeg.tar.xz is corrupt"):
        data.cifar10(root=tmp_path)
    zip_archive(tmp_path / "bsds500-images.zip", ("train/x.jpg", b"not a photo"))
    with pytest.raises(DataFileError, match="train/x.jpg is not an image that can be read"):
        data.bsds500(root=tmp_path)


# Fetching, from a server of our own


class QuietHandler(SimpleHTTPRequestHandler):
    "Serves a folder; `/broken/NAME` breaks off half-way."

    def log_message(self, *_):
        pass

    def do_GET(self):
        if not self.path.startswith("/broken/"):
            return super().do_GET()
        content = (Path(self.directory) / self.path.removeprefix("/broken/")).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])


@pytest.fixture
def server(tmp_path):
    "A folder and the address at which its files can be fetched."
    folder = tmp_path / "served"
    folder.mkdir()
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def declare(monkeypatch):
    "`declare(parts, paths)` puts a data set called toy into the manifest."

    def entry(parts: list[dict], paths: list[str], **known) -> None:
        files = [{"path": path, "bytes": None, "sha256": None, "md5": None} | known for path in paths]
        toy = {"title": "Toy set", "kind": "files", "source": "http://example.org", "by_hand": "put it there",
               "licence": "none"}
        toy |= {"forms": [{"files": files}], "download": parts}
        monkeypatch.setattr(catalogue, "manifest", lambda: {"toy": toy})

    return entry


def part(path: Path, *urls: str, gives: dict[str, str], unpacked: bool = False, **changes) -> dict:
    content = path.read_bytes()
    known = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
             "md5": hashlib.md5(content).hexdigest()}
    return {"file": path.name, "urls": list(urls), "unpack": unpacked, "gives": gives} | known | changes


def test_get_fetches_a_file_verifies_it_and_fetches_it_once(tmp_path, server, declare, monkeypatch):
    served, url = server
    (served / "x.bin").write_bytes(b"data" * 1000)
    toy = part(served / "x.bin", f"{url}/x.bin", gives={"x.bin": "toy/raw/x.bin"})
    declare([toy], ["toy/raw/x.bin"], sha256=toy["sha256"])
    root = tmp_path / "new/root"
    assert data.get("toy", root) == root
    assert everything_below(root) == {"toy", "toy/raw", "toy/raw/x.bin"}
    (served / "x.bin").unlink()
    assert data.get("toy", root) == root  # nothing is fetched again


def test_get_replaces_a_broken_file_and_keeps_the_finished_one(tmp_path, server, declare):
    served, url = server
    (served / "a").write_bytes(b"a" * 1000)
    (served / "b").write_bytes(b"b" * 1000)
    parts = [part(served / name, f"{url}/{name}", gives={name: f"toy/{name}"}) for name in "ab"]
    declare(parts, ["toy/a", "toy/b"], bytes=1000)
    data.get("toy", tmp_path / "root")
    (tmp_path / "root/toy/b").write_bytes(b"b" * 500)  # as a copy that broke off
    (served / "a").unlink()
    data.get("toy", tmp_path / "root")
    assert (tmp_path / "root/toy/b").read_bytes() == b"b" * 1000


def test_get_takes_the_next_address_when_one_fails(tmp_path, server, declare):
    served, url = server
    (served / "x").write_bytes(b"right" * 100)
    (served / "wrong").write_bytes(b"wrong" * 100)
    addresses = ["http://127.0.0.1:9/x", f"{url}/absent", f"{url}/wrong", f"{url}/broken/x", f"{url}/x"]
    declare([part(served / "x", *addresses, gives={"x": "x"})], ["x"])
    data.get("toy", tmp_path / "root")
    assert everything_below(tmp_path / "root") == {"x"} and (tmp_path / "root/x").read_bytes() == b"right" * 100


def test_get_removes_what_a_killed_download_left_and_spares_one_that_may_still_run(tmp_path, server, declare):
    served, url = server
    (served / "x").write_bytes(b"right")
    declare([part(served / "x", f"{url}/x", gives={"x": "x"})], ["x"])
    root = tmp_path / "root"
    for name, age in ((".fetching-killed", 200_000), (".fetching-running", 60)):
        (root / name).mkdir(parents=True)
        (root / name / "half").write_bytes(b"ri")
        os.utime(root / name, (time.time() - age,) * 2)
    data.get("toy", root)
    assert {path.name for path in root.iterdir()} == {".fetching-running", "x"}


@pytest.mark.parametrize("address, words", [
    ("http://127.0.0.1:9/x", "could not be read.*get it from http://example.org and put it there"),
    ("{url}/absent", "could not be read"),
    ("{url}/broken/x", "x was not downloaded"),
    ("{url}/wrong", "checksum is not sha256"),
])
def test_a_failed_download_leaves_nothing(tmp_path, server, declare, address, words):
    served, url = server
    (served / "x").write_bytes(b"right" * 100)
    (served / "wrong").write_bytes(b"wrong" * 100)
    declare([part(served / "x", address.format(url=url), gives={"x": "x"})], ["x"])
    with pytest.raises(ConnectionError, match=words) as raised:
        data.get("toy", tmp_path / "root")
    assert "\n" not in str(raised.value) and everything_below(tmp_path / "root") == set()


def test_get_unpacks_an_archive_and_keeps_only_what_is_wanted(tmp_path, server, declare):
    served, url = server
    zip_archive(served / "x.zip", ("repo-1/images/1.jpg", b"one"), ("repo-1/images/2.jpg", b"two"),
                ("repo-1/other.txt", b"no"))
    folder = tmp_path / "expected"
    unpack(served / "x.zip", folder)
    tree = catalogue._tree_sha256(folder / "repo-1/images")
    unknown = {"sha256": None, "md5": None, "bytes": None}
    archive = part(served / "x.zip", f"{url}/x.zip", gives={"repo-1/images": "toy/images"}, unpacked=True,
                   tree_sha256=tree, **unknown)
    declare([archive], ["toy/images"], tree_sha256=tree)
    data.get("toy", tmp_path / "root")
    assert everything_below(tmp_path / "root") == {"toy", "toy/images", "toy/images/1.jpg", "toy/images/2.jpg"}
    (tmp_path / "root/toy/images/2.jpg").unlink()
    data.get("toy", tmp_path / "root")  # an incomplete folder is replaced
    assert (tmp_path / "root/toy/images/2.jpg").exists()
    zip_archive(served / "x.zip", ("repo-1/images/1.jpg", b"changed"))
    with pytest.raises(DataFileError, match="does not hold the expected files"):
        data.get("toy", tmp_path / "elsewhere")
    assert everything_below(tmp_path / "elsewhere") == set()


def test_get_refuses_an_unsafe_archive_and_leaves_nothing(tmp_path, server, declare):
    served, url = server
    tar_archive(served / "x.tar.gz", ("toy/../../outside.txt", b"gotcha"), mode="w:gz")
    declare([part(served / "x.tar.gz", f"{url}/x.tar.gz", gives={"toy": "toy"}, unpacked=True)], ["toy"])
    with pytest.raises(DataFileError, match="outside the folder"):
        data.get("toy", tmp_path / "root")
    assert everything_below(tmp_path / "root") == set() and not (tmp_path / "outside.txt").exists()


def test_get_says_when_the_folder_cannot_be_written(tmp_path, server, declare):
    served, url = server
    (served / "x").write_bytes(b"x")
    declare([part(served / "x", f"{url}/x", gives={"x": "x"})], ["x"])
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(OSError, match="cannot be written .* set XFER_DATA to a folder that you may write to"):
        data.get("toy", tmp_path / "file/root")


def test_get_says_when_the_disk_is_full(tmp_path, server, declare, monkeypatch):
    served, url = server
    (served / "x").write_bytes(b"x" * 1000)
    declare([part(served / "x", f"{url}/x", gives={"x": "x"})], ["x"])
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: type("usage", (), {"free": 999}))
    with pytest.raises(OSError, match="not enough space for 1,000 bytes"):
        data.get("toy", tmp_path / "root")
    assert everything_below(tmp_path / "root") == set()


def test_files_are_compared_by_size_and_by_the_strongest_checksum(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bz2.compress(b"x"))
    sha256, md5 = file_hash(path), file_hash(path, "md5")
    size = path.stat().st_size
    assert catalogue._intact(path, {"bytes": size, "sha256": sha256, "md5": "0" * 32})
    assert catalogue._intact(path, {"bytes": None, "sha256": None, "md5": md5})
    assert not catalogue._intact(path, {"bytes": size + 1, "sha256": sha256, "md5": md5})
    assert not catalogue._intact(path, {"bytes": size, "sha256": None, "md5": "0" * 32})
    assert not catalogue._intact(tmp_path / "absent", {"bytes": None, "sha256": None, "md5": None})
