"""Decoding equals nibabel bit for bit; whatever is damaged or hostile ends in a NiftiError."""

import gzip
import importlib.util
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from fastseg.data import nifti
from fastseg.data.nifti import inflate
from fastseg.errors import NiftiError
from fastseg.host import memory

nibabel = pytest.importorskip("nibabel")

CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024,
         "u8": 1280}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(params=inflate.LIBRARIES)
def engine(request):
    """Each inflate library in turn."""
    try:
        with inflate.inflate_with(request.param):
            yield request.param
    except ImportError as error:
        pytest.skip(str(error))


def header(shape=(5, 4, 3), kind="i2", order="<", version=1, **fields) -> bytes:
    """Header block of one file: nibabel's defaults with `fields` on top."""
    cls = nibabel.Nifti1Header if version == 1 else nibabel.Nifti2Header
    head = cls(endianness=order)
    head["dim"][: len(shape) + 1] = [len(shape), *shape]
    head["datatype"], head["bitpix"] = CODES[kind], 8 * np.dtype(kind).itemsize
    head["vox_offset"] = 352 if version == 1 else 544
    head["pixdim"][:4], head["sform_code"] = [1, 1, 1, 1], 1
    head["srow_x"], head["srow_y"], head["srow_z"] = np.eye(4)[:3]
    for name, value in fields.items():
        head[name] = value
    return head.binaryblock + b"\0\0\0\0"


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def sample(path: Path, kind="i2", shape=(5, 4, 3), **fields) -> tuple[Path, bytes]:
    """A valid file (gzip when named so) and its uncompressed content."""
    values = np.arange(np.prod(shape)).astype(kind).tobytes()
    content = header(shape, kind, **fields) + values
    packed = gzip.compress(content, 1, mtime=0) if path.suffix == ".gz" else content
    return write_bytes(path, packed), content


def random_file(path: Path, rng: np.random.Generator) -> Path:
    """A valid file; version, byte order, dtype, shape, scaling, affine, extension are random."""
    kind, order, version = rng.choice(list(CODES)), rng.choice(["<", ">"]), int(rng.integers(1, 3))
    shape = [int(n) for n in rng.integers(1, 10, rng.integers(1, 4))]
    shape += [1] * int(rng.integers(0, 5)) if len(shape) == 3 else []
    extension = 16 * int(rng.integers(0, 4))
    quatern = rng.normal(size=4)
    quatern = np.abs(quatern[0]), *quatern[1:]
    quatern = np.array(quatern) / np.linalg.norm(quatern)
    fields = {
        "pixdim": [rng.choice([-1, 1, 0]), *rng.choice([-1.5, 0, 0.5, 1, 2.25], 3), 0, 0, 0, 0],
        "qform_code": rng.integers(-1, 7),
        "sform_code": rng.choice([0, 0, 1, 2, 4, 9]),
        "scl_slope": rng.choice([np.nan, 0, 1, 1, -1, 0.37, 2.5e3, np.inf]),
        "scl_inter": rng.choice([0, 0, -1024, 3.25]),
        "vox_offset": 344 + 192 * (version - 1) + 8 + extension,
    }
    fields |= dict(zip(["quatern_b", "quatern_c", "quatern_d"], quatern[1:], strict=True))
    rows = {f"srow_{axis}": rng.normal(size=4) for axis in "xyz"}
    offsets = {f"qoffset_{axis}": rng.normal() * 100 for axis in "xyz"}
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    voxels = rng.bytes(size)
    if np.dtype(kind).kind == "f":
        voxels = (rng.normal(size=np.prod(shape)) * 1e3).astype(order + kind).tobytes()
    content = header(shape, kind, order, version, **fields, **rows, **offsets)
    content += bytes(extension) + voxels
    packed = gzip.compress(content, int(rng.integers(0, 10))) if path.suffix == ".gz" else content
    return write_bytes(path, packed)


def assert_equals_nibabel(path: Path, volume: nifti.Volume) -> None:
    image = nibabel.load(path)
    stored = np.asanyarray(image.dataobj.get_unscaled())
    shape = (*stored.shape, 1, 1)[:3]
    assert volume.data.shape == shape[::-1]
    assert volume.data.dtype == stored.dtype
    assert volume.data.flags.c_contiguous
    assert volume.data.tobytes() == stored.tobytes(order="F")
    assert np.array_equal(volume.header.affine, image.affine)
    zooms = (*(float(z) for z in image.header.get_zooms()), 1, 1)[: min(3, stored.ndim)]
    assert volume.header.spacing_mm[::-1][: len(zooms)] == zooms
    with np.errstate(all="ignore"):
        wanted = image.get_fdata(dtype=np.float32).reshape(shape).T
        got = volume.scaled()
    assert got.dtype == np.float32
    assert np.array_equal(got, wanted, equal_nan=True)


@pytest.mark.parametrize("seed", range(8))
def test_generated_files_equal_nibabel(tmp_path, seed):
    buffer = nifti.Buffer()
    for index in range(50):
        rng = np.random.default_rng((seed, index))
        path = random_file(tmp_path / f"{index}{['.nii', '.nii.gz'][index % 2]}", rng)
        assert_equals_nibabel(path, nifti.read(path, buffer=buffer))
        path.unlink()


def test_every_engine_equals_nibabel(tmp_path, engine):
    for index in range(20):
        path = random_file(tmp_path / f"{index}.nii.gz", np.random.default_rng((99, index)))
        assert_equals_nibabel(path, nifti.read(path))
    assert nifti.inflate_library() == engine


def test_all_axis_codes_keep_their_affine(tmp_path):
    rng = np.random.default_rng(5)
    for axes in np.stack(np.meshgrid(*[[-1, 1]] * 3), -1).reshape(-1, 3):
        for order in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]):
            affine = np.zeros((4, 4))
            affine[order, range(3)], affine[:3, 3], affine[3, 3] = axes * 1.5, rng.normal(size=3), 1
            image = nibabel.Nifti1Image(rng.integers(0, 9, (4, 5, 6), np.int16), affine)
            image.to_filename(tmp_path / "a.nii")
            assert_equals_nibabel(tmp_path / "a.nii", nifti.read(tmp_path / "a.nii"))


@pytest.mark.parametrize("case", ["gz content named .nii", "plain content named .nii.gz"])
def test_content_decides_not_the_name(tmp_path, case):
    _, content = sample(tmp_path / "good.nii")
    path = tmp_path / ("a.nii" if case.endswith(".nii") else "a.nii.gz")
    write_bytes(path, gzip.compress(content) if case.startswith("gz") else content)
    assert nifti.read(path).data.ravel().tolist() == list(range(60))


def test_unaligned_offset_and_extension_flag(tmp_path):
    fields = header(vox_offset=357)[:-4] + b"\1\0\0\0" + bytes(5)
    path = write_bytes(tmp_path / "a.nii.gz", gzip.compress(fields + bytes(range(120))))
    volume = nifti.read(path)
    assert volume.data.tobytes() == bytes(range(120))
    assert volume.data.ctypes.data % 64 == 0


# gzip containers


def test_multi_member_padding_and_foreign_bytes(tmp_path, engine):
    _, content = sample(tmp_path / "good.nii")
    for cut in (1, 100, 348, 352, 353, len(content) - 1):
        parts = gzip.compress(content[:cut]) + gzip.compress(b"") + gzip.compress(content[cut:])
        for tail in (b"", bytes(512), b"garbage", gzip.compress(b""), b"\x1f\x8b cut"):
            path = write_bytes(tmp_path / "a.nii.gz", parts + tail)
            assert nifti.read(path).data.ravel().tolist() == list(range(60))


def test_surplus_voxel_bytes_are_ignored_up_to_a_limit(tmp_path, engine):
    _, content = sample(tmp_path / "good.nii")
    path = write_bytes(tmp_path / "a.nii.gz", gzip.compress(content + bytes(1000)))
    assert nifti.read(path).data.ravel().tolist() == list(range(60))
    write_bytes(path, gzip.compress(content + bytes(1 << 21)))
    with pytest.raises(NiftiError, match="goes on past the size"):
        nifti.read(path)


def test_wrong_checksum_and_length_are_rejected(tmp_path, engine):
    path, _ = sample(tmp_path / "a.nii.gz")
    good = path.read_bytes()
    for bad in (
        good[:-8] + struct.pack("<I", 1) + good[-4:],
        good[:-4] + struct.pack("<I", 1),
        good[:-4] + struct.pack("<I", 2**32 - 1),
    ):
        with pytest.raises(NiftiError, match=r"a\.nii\.gz.*damaged"):
            nifti.read(write_bytes(path, bad))


def test_many_tiny_members_are_refused(tmp_path):
    path, _ = sample(tmp_path / "a.nii.gz")
    head, rest = header()[:352], gzip.compress(b"")
    write_bytes(path, gzip.compress(head, mtime=0) + rest * 100_000)
    started = time.perf_counter()
    with pytest.raises(NiftiError, match="too many gzip members"):
        nifti.read(path)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_every_truncation_is_rejected(tmp_path, name):
    path, _ = sample(tmp_path / name)
    content = path.read_bytes()
    for cut in range(len(content)):
        with pytest.raises(NiftiError, match=name):
            nifti.read(write_bytes(path, content[:cut]))


def test_truncations_of_a_large_file_are_rejected(tmp_path, engine):
    rng = np.random.default_rng(3)
    content = header((64, 64, 40)) + (rng.normal(size=64 * 64 * 40) * 200).astype("<i2").tobytes()
    packed = gzip.compress(content, 1)
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        path = write_bytes(tmp_path / "a.nii.gz", packed[: int(len(packed) * share)])
        with pytest.raises(NiftiError, match=r"a\.nii\.gz"):
            nifti.read(path)


def test_bit_flips_never_change_data_unnoticed(tmp_path, engine):
    """Flips in fields without meaning (time, name) may pass; the data is then still the same."""
    path, content = sample(tmp_path / "a.nii.gz", shape=(12, 11, 10))
    good, passed = path.read_bytes(), []
    rng = np.random.default_rng(11)
    flips = {*range(80), *(int(b) for b in rng.integers(0, 8 * len(good), 500))}
    flips |= set(range(8 * len(good) - 64, 8 * len(good)))
    for bit in sorted(flips):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        try:
            volume = nifti.read(write_bytes(path, bytes(bad)))
        except NiftiError:
            continue
        assert volume.data.tobytes() == content[352:]
        passed.append(bit)
    # RFC 1952: bytes 4 to 9 and the text flag describe, everything else is structure or data.
    assert {bit for bit in passed if not (32 <= bit < 80 or bit == 24)} == set()


def test_flipped_plain_headers_read_as_nibabel_reads_them_or_fail(tmp_path, caplog):
    caplog.set_level("CRITICAL")
    path, content = sample(tmp_path / "a.nii", qform_code=1, pixdim=[1, 1, 2, 3, 0, 0, 0, 0])
    for bit in range(0, 348 * 8, 3):
        bad = bytearray(content)
        bad[bit // 8] ^= 1 << bit % 8
        write_bytes(path, bytes(bad))
        try:
            volume = nifti.read(path)
        except NiftiError:
            continue
        with np.errstate(all="ignore"):
            assert_equals_nibabel(path, volume)


def test_random_mutations_only_raise_nifti_errors(tmp_path):
    rng = np.random.default_rng(17)
    plain, packed = sample(tmp_path / "a.nii")[0], sample(tmp_path / "a.nii.gz")[0]
    sources = [plain.read_bytes(), packed.read_bytes()]
    slowest = 0.0
    for index in range(1500):
        bad = bytearray(sources[index % 2])
        for _ in range(int(rng.integers(1, 6))):
            at = int(rng.integers(0, min(len(bad), 360)))
            bad[at : at + int(rng.integers(0, 9))] = rng.bytes(int(rng.integers(0, 9)))
        # Half of the gzip files get a valid wrapper, so that the header behind it is what is tried.
        content = gzip.compress(bad, 1) if index % 4 == 0 else bytes(bad)
        path = write_bytes(tmp_path / "b.nii.gz", content)
        started = time.perf_counter()
        with suppress(NiftiError):
            nifti.read(path)
        slowest = max(slowest, time.perf_counter() - started)
    assert slowest < 1


# Headers that lie

BAD_HEADERS = {
    "dim0 zero": ({"dim": [0, 5, 4, 3, 1, 1, 1, 1]}, r"dim\[0\] = 0"),
    "dim0 eight": ({"dim": [8, 5, 4, 3, 1, 1, 1, 1]}, r"dim\[0\] = 8"),
    "dim0 negative": ({"dim": [-1, 5, 4, 3, 1, 1, 1, 1]}, r"dim\[0\] = -1"),
    "dim0 large": ({"dim": [200, 5, 4, 3, 1, 1, 1, 1]}, r"dim\[0\] = 200"),
    "zero size": ({"dim": [3, 5, 0, 3, 1, 1, 1, 1]}, "at least 1"),
    "negative size": ({"dim": [3, 5, -4, 3, 1, 1, 1, 1]}, "at least 1"),
    "time series": ({"dim": [4, 5, 4, 1, 3, 1, 1, 1]}, "4-D data .* split it per channel"),
    "vector": ({"dim": [5, 5, 4, 1, 1, 3, 1, 1]}, "5-D data"),
    "too many voxels": ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "the limit is"),
    "fewer bytes": ({"dim": [3, 500, 400, 300, 1, 1, 1, 1]}, "cut short"),
    "binary": ({"datatype": 1}, "binary"),
    "complex": ({"datatype": 32}, "complex64"),
    "rgb": ({"datatype": 128}, "RGB"),
    "float128": ({"datatype": 1536}, "float128"),
    "unknown type": ({"datatype": 77}, r"datatype 77 \(unknown\)"),
    "offset nan": ({"vox_offset": np.nan}, "vox_offset nan"),
    "offset inf": ({"vox_offset": np.inf}, "vox_offset inf"),
    "offset -inf": ({"vox_offset": -np.inf}, "vox_offset -inf"),
    "offset negative": ({"vox_offset": -1}, "vox_offset -1"),
    "offset huge": ({"vox_offset": 1e9}, r"vox_offset 1e\+09"),
    "offset largest": ({"vox_offset": 3e38}, r"vox_offset 3e\+38"),
    "offset small": ({"vox_offset": 3}, "vox_offset 3 "),
    "offset zero": ({"vox_offset": 0}, "vox_offset 0 "),
    "offset fractional": ({"vox_offset": 352.5}, r"vox_offset 352\.5"),
    "offset in header": ({"vox_offset": 348}, "vox_offset 348"),
    "intercept": ({"scl_slope": 2, "scl_inter": np.nan}, "scl_inter nan"),
    "affine": ({"srow_y": [0, np.nan, 0, 0]}, "affine .* finite"),
    "voxel size": ({"pixdim": [1, np.inf, 1, 1, 0, 0, 0, 0]}, "voxel sizes"),
    "quaternion": ({"sform_code": 0, "qform_code": 1, "quatern_b": 1.5}, "longer than 1"),
    "quaternion nan": ({"sform_code": 0, "qform_code": 1, "quatern_b": np.nan}, "quaternion"),
    "magic": ({"magic": b"xyz"}, "magic"),
    "size field": ({"sizeof_hdr": 349}, "not NIfTI"),
    "pair": ({"magic": b"ni1"}, r"\.hdr/\.img"),
}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("name", BAD_HEADERS)
def test_bad_headers_are_rejected(tmp_path, name, order):
    fields, reason = BAD_HEADERS[name]
    content = header(order=order, **fields) + bytes(120)
    for path, packed in (("a.nii", content), ("a.nii.gz", gzip.compress(content))):
        for read in (nifti.read, nifti.read_header):
            with pytest.raises(NiftiError, match=reason) as raised:
                read(write_bytes(tmp_path / path, packed))
            assert raised.value.path == tmp_path / path


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dim": [3, 2**62, 2**62, 2**62, 1, 1, 1, 1]}, "the limit is"),
        ({"dim": [3, 2**32, 2**32, 1, 1, 1, 1, 1]}, "the limit is"),
        ({"dim": [2**40, 1, 1, 1, 1, 1, 1, 1]}, r"dim\[0\]"),
        ({"vox_offset": -(2**63)}, "vox_offset"),
        ({"vox_offset": 2**62}, "vox_offset"),
        ({"vox_offset": 543}, "vox_offset 543"),
        ({"magic": b"ni2"}, r"\.hdr/\.img"),
        ({"eol_check": (13, 10, 26, 13)}, "magic"),
    ],
)
def test_bad_nifti2_headers_are_rejected(tmp_path, fields, reason):
    path = write_bytes(tmp_path / "a.nii", header(version=2, **fields) + bytes(120))
    with pytest.raises(NiftiError, match=reason):
        nifti.read(path)


def test_voxel_limit_is_the_callers(tmp_path):
    path, _ = sample(tmp_path / "a.nii.gz")
    assert nifti.read(path, max_voxels=60).data.size == 60
    with pytest.raises(NiftiError, match="60 voxels, the limit is 59"):
        nifti.read(path, max_voxels=59)


def test_things_that_are_no_nifti_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    contents = {
        "empty.nii.gz": (b"", "empty"),
        "text.nii.gz": (b"version https://git-lfs.github.com/spec/v1" * 20, "not NIfTI"),
        "page.nii": (b"<html>" * 200, "not NIfTI"),
        "zipped.nii.gz": (gzip.compress(b"hello" * 500), "not NIfTI"),
        "short.nii.gz": (gzip.compress(b"\\\1\0\0"), "header bytes"),
        "analyze.img": (header(magic=b"") + bytes(120), "magic"),
    }
    for name, (content, _) in contents.items():
        write_bytes(tmp_path / name, content)
    reasons = {name: reason for name, (_, reason) in contents.items()}
    reasons |= {"pipe.nii": "regular", "absent.nii": "No such file", "loop.nii": "symbolic links"}
    for name, reason in reasons.items():
        with pytest.raises(NiftiError, match=reason):
            nifti.read(tmp_path / name)
    with pytest.raises(NiftiError, match="regular"):
        nifti.read(tmp_path)
    with pytest.raises(NiftiError, match="NUL"):
        nifti.read("a\0.nii")


def test_the_fastest_library_that_is_installed_inflates():
    installed = {"libdeflate": "deflate", "isal": "isal", "zlib": "zlib"}
    first = next(name for name, module in installed.items() if importlib.util.find_spec(module))
    assert nifti.inflate_library() == first
    with inflate.inflate_with("zlib"):
        assert nifti.inflate_library() == "zlib"
    assert nifti.inflate_library() == first


# Memory

PROBE = """
import resource, sys, time
from fastseg.data import nifti
from fastseg.data.nifti.inflate import inflate_library
from fastseg.errors import NiftiError
inflate_library()
start, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
try:
    nifti.read(sys.argv[1])
except NiftiError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start, time.perf_counter() - began)
"""


def extra_memory(path: Path) -> tuple[float, float]:
    """Growth of the peak resident set in MiB, and seconds, of a read that must fail."""
    result = subprocess.run(
        [sys.executable, "-c", PROBE, path], capture_output=True, text=True, check=True
    )
    kilobytes, seconds = result.stdout.split()
    return int(kilobytes) / 1024, float(seconds)


def test_gzip_bomb_takes_no_more_than_the_header_promises(tmp_path):
    encoder = zlib.compressobj(9, wbits=31)
    start = encoder.compress(header((128, 128, 128))) + encoder.flush(zlib.Z_FULL_FLUSH)
    zeros = encoder.compress(bytes(1 << 24)) + encoder.flush(zlib.Z_FULL_FLUSH)
    path = write_bytes(tmp_path / "a.nii.gz", start + zeros * 600)
    assert path.stat().st_size * 1000 > 9 << 30
    growth, seconds = extra_memory(path)
    assert growth < 4 + 16
    assert seconds < 1


def test_a_small_file_that_promises_much_and_holds_more_takes_nothing(tmp_path, engine):
    encoder = zlib.compressobj(9, wbits=31)
    start = encoder.compress(header((256, 256, 256), "f8")) + encoder.flush(zlib.Z_FULL_FLUSH)
    zeros = encoder.compress(bytes(1 << 22)) + encoder.flush(zlib.Z_FULL_FLUSH)
    path = write_bytes(tmp_path / "a.nii.gz", start + zeros * 256)
    assert extra_memory(path)[0] < 16
    with pytest.raises(NiftiError, match="goes on past the size"):
        nifti.read(path)


LIMITED = """
import resource, sys
from fastseg.data import nifti
from fastseg.errors import NiftiError
from fastseg.host.memory import available_bytes
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (3 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
assert abs(available_bytes() - (3 << 30)) < 1 << 26
for path in sys.argv[1:]:
    try:
        print(nifti.read(path).data.nbytes)
    except NiftiError as error:
        print(error)
"""


def test_honest_gigabytes_are_read_where_there_is_memory_alone(tmp_path):
    """Zeros pack a thousandfold, so a file of a megabyte is one of them."""
    paths = []
    for name, depth in (("small", 64), ("large", 512)):
        encoder = zlib.compressobj(9, wbits=31)
        content = encoder.compress(header((512, 512, depth), "f8"))
        content += encoder.compress(bytes(1 << 27)) + encoder.flush() + bytes(1 << 21)
        paths.append(write_bytes(tmp_path / f"{name}.nii.gz", content))
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, *paths], capture_output=True, text=True, check=True
    )
    small, large = result.stdout.splitlines()
    assert small == str(1 << 27)
    assert large.startswith(f"{paths[1]}: 1.00 GiB of voxels; wanted at most 25% of the ")


def test_memory_that_a_container_has_left_counts(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 400\nactive_file 150\n")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    assert memory.available_bytes() == 650
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes() > 10**6


@pytest.mark.parametrize("size", [4096, 32767])
@pytest.mark.parametrize("version", [1, 2])
def test_header_alone_allocates_nothing(tmp_path, size, version):
    content = header((size,) * 3, "f8", version=version) + bytes(48)
    path = write_bytes(tmp_path / "a.nii.gz", gzip.compress(content))
    assert extra_memory(path)[0] < 2
    with pytest.raises(NiftiError, match="the limit is"):
        nifti.read(path)
    with pytest.raises(NiftiError, match="cut short: its header promises"):
        nifti.read(path, max_voxels=2**60)


# Buffers and threads


def test_buffer_is_reused_and_grows(tmp_path):
    small, _ = sample(tmp_path / "a.nii.gz")
    large, _ = sample(tmp_path / "b.nii.gz", "f8", (128, 128, 20))
    buffer = nifti.Buffer()
    nifti.read(large, buffer=buffer)
    first = nifti.read(small, buffer=buffer)
    kept = first.data.copy()
    second = nifti.read(small, buffer=buffer)
    assert second.data.ctypes.data == first.data.ctypes.data
    assert np.array_equal(kept, second.data)
    assert np.array_equal(nifti.read(large, buffer=buffer).data.ravel(), np.arange(128 * 128 * 20))
    assert np.array_equal(nifti.read(small, buffer=nifti.Buffer()).data, kept)


def test_volume_without_buffer_owns_its_data(tmp_path):
    first, _ = sample(tmp_path / "a.nii.gz")
    volume = nifti.read(first)
    nifti.read(sample(tmp_path / "b.nii.gz", "u1")[0])
    assert volume.data.ravel().tolist() == list(range(60))
    scaled = volume.scaled()
    volume.data[:] = 0
    assert scaled.ravel().tolist() == list(range(60))


def test_threads_decode_independently(tmp_path):
    paths = [random_file(tmp_path / f"{i}.nii.gz", np.random.default_rng((7, i))) for i in range(8)]
    wanted = [nifti.read(path).data.tobytes() for path in paths]
    wrong = []

    def decode():
        buffer = nifti.Buffer()
        for _ in range(20):
            for path, data in zip(paths, wanted, strict=True):
                if nifti.read(path, buffer=buffer).data.tobytes() != data:
                    wrong.append(path)

    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Writing


@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
@pytest.mark.parametrize("seed", range(12))
def test_written_labels_keep_the_sources_geometry(tmp_path, seed, end):
    source = random_file(tmp_path / "source.nii.gz", np.random.default_rng((23, seed)))
    like = nifti.read_header(source)
    labels = np.random.default_rng(seed).integers(0, 5, like.shape)
    nifti.write(tmp_path / f"label{end}", labels, like)
    image, original = nibabel.load(tmp_path / f"label{end}"), nibabel.load(source)
    assert image.get_data_dtype() == np.uint8
    assert (image.dataobj.slope, image.dataobj.inter) == (1, 0)
    assert np.array_equal(np.asanyarray(image.dataobj).T, labels)
    assert np.array_equal(image.affine, original.affine)
    for name in ("qform_code", "sform_code", "quatern_b", "qoffset_x", "srow_x"):
        assert np.array_equal(image.header[name], original.header[name])
    assert image.header.get_zooms() == like.spacing_mm[::-1]
    back = nifti.read(tmp_path / f"label{end}")
    assert np.array_equal(back.data, labels)
    assert np.array_equal(back.header.affine, like.affine)


def test_written_dtypes(tmp_path):
    like, _ = sample(tmp_path / "like.nii")
    path, shape = tmp_path / "a.nii.gz", (3, 4, 5)
    cases = [(bool, None, "u1"), ("i8", None, "u1"), ("f8", None, "f4"), ("f2", None, "f4"),
             ("i8", "i2", "i2"), (">i4", "i4", "i4"), ("f4", "u1", "u1")]  # fmt: skip
    for given, asked, stored in cases:
        nifti.write(path, np.ones(shape, given), like, dtype=asked)
        assert nifti.read_header(path).dtype == np.dtype(stored)
        assert (nifti.read(path).data == 1).all()


@pytest.mark.parametrize(
    ("data", "dtype", "reason"),
    [
        (np.zeros((3, 4, 4)), None, "shape"),
        (np.full((3, 4, 5), 256), None, "256.* cannot be stored as uint8"),
        (np.full((3, 4, 5), -1), None, "cannot be stored as uint8"),
        (np.full((3, 4, 5), 0.5), np.uint8, "cannot be stored as uint8"),
        (np.full((3, 4, 5), np.nan), np.uint8, "cannot be stored as uint8"),
        (np.zeros((3, 4, 5)), np.int64, "dtype int64 should be one of"),
        (np.zeros((3, 4, 5)), np.float16, "dtype float16 should be one of"),
        (np.zeros((3, 4, 5), complex), None, "complex128"),
    ],
)
def test_unwritable_data_is_refused(tmp_path, data, dtype, reason):
    like, _ = sample(tmp_path / "like.nii")
    with pytest.raises(ValueError, match=reason):
        nifti.write(tmp_path / "a.nii.gz", data, like, dtype=dtype)
    with pytest.raises(ValueError, match=r"\.nii or \.nii\.gz"):
        nifti.write(tmp_path / "a.mha", np.zeros((3, 4, 5), np.uint8), like)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["like.nii"]


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    like, _ = sample(tmp_path / "like.nii")
    path = tmp_path / "a.nii.gz"
    nifti.write(path, np.ones((3, 4, 5), np.uint8), like)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NiftiError, match=r"a\.nii\.gz: cannot be written: No space"):
        nifti.write(path, np.zeros((3, 4, 5), np.uint8), like)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "like.nii"]
    with pytest.raises(NiftiError, match="cannot be written"):
        nifti.write(tmp_path / "absent" / "a.nii", np.zeros((3, 4, 5), np.uint8), like)


def test_equal_data_is_written_as_equal_bytes(tmp_path):
    like, _ = sample(tmp_path / "like.nii")
    for name in ("a.nii.gz", "b.nii.gz"):
        nifti.write(tmp_path / name, np.ones((3, 4, 5), np.uint8), like)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_conflicting_forms_are_told(tmp_path):
    for shift, agree in ((0, True), (5, False)):
        path, _ = sample(tmp_path / "a.nii", qform_code=1, qoffset_x=shift)
        assert nifti.read_header(path).forms_agree() is agree


def test_real_cases_equal_nibabel():
    root = os.environ.get("FASTSEG_REAL_DATA")
    if not root:
        pytest.skip("FASTSEG_REAL_DATA does not name a folder of real cases")
    paths, buffer = sorted(Path(root).rglob("*.nii.gz")), nifti.Buffer()
    assert paths
    for path in paths:
        assert_equals_nibabel(path, nifti.read(path, buffer=buffer))
