"""Pickles of others: what they hold is read, what they would do is not done."""
import os
import pickle
import pickletools
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts_activity import write_pickle

from biossl.data.errors import RecordingError
from biossl.data.pickles import read_pickle


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype.newbyteorder("=") == b.dtype.newbyteorder("=") and a.shape == b.shape \
            and (a == b).all()
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b and type(a) is type(b)


ARRAYS = [np.linspace(-1, 1, 12).reshape(4, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
          np.arange(5, dtype=">i4"), np.array([True, False]), np.zeros((0, 3), np.float32),
          np.array(3.5), np.array(["S1", "walking"], "S7"), np.array(["süß", "table soccer"]),
          np.array([1 + 2j]), np.arange(70_000, dtype=np.uint8)]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda o: f"{o.dtype.str}{o.shape}")
def test_arrays_come_back_as_they_were(tmp_path, array):
    found = read_pickle(write_pickle(tmp_path / "a.pkl", {"x": array, "again": array}))
    assert same(found["x"], array) and found["again"] is found["x"]


def test_what_python_2_held_as_text_and_numbers_is_read(tmp_path):
    value = {"subject": "S1", "questionnaire": {"AGE": 34, "Gender": " m", "SKIN": 3.5},
             "list": [1, 2**70, -5, True, None, (), ("a", 1.5), np.float64(61.5)], "ü": "é" * 300}
    assert same(read_pickle(write_pickle(tmp_path / "a.pkl", value)), value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-2**80, 2**80) | st.floats(allow_nan=False)
    | st.text(st.characters(max_codepoint=255), max_size=20),
    lambda o: st.lists(o, max_size=4) | st.lists(o, max_size=4).map(tuple)
    | st.dictionaries(st.text(st.characters(max_codepoint=255), max_size=5), o, max_size=4))


@given(value=PLAIN, protocol=st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_plain_values_of_every_old_protocol_come_back(tmp_path_factory, value, protocol):
    folder = tmp_path_factory.mktemp("plain")
    assert same(read_pickle(write_pickle(folder / "old.pkl", value)), value)
    (folder / "new.pkl").write_bytes(pickle.dumps(value, protocol))   # text as unicode
    assert same(read_pickle(folder / "new.pkl"), value)


# What a file may not do. Every attack would leave the file `run` behind; a control shows it.

def text(value): return b"U" + bytes([len(value)]) + value


def shell(folder): return text(f"touch {folder}/run".encode())


LITTLE = b"(K\3U\1<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"   # a type's state: little-endian


def array_of(dtype, raw, shape=b"K\2\x85", state=LITTLE):
    "The instructions for an array of two, in the words of NumPy."
    return (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R(K\1" + shape
            + b"cnumpy\ndtype\n" + text(dtype) + b"K\0K\1\x87R" + state + b"\x89" + raw + b"tb")


SYSTEM = os.system.__module__.encode()


def reduce_system(o): return b"c%s\nsystem\n" % SYSTEM + shell(o) + b"\x85R"


def python_two(o): return b"cos\nsystem\n" + shell(o) + b"\x85R"


def python_three(o):
    return b"\x8c\5posix\x8c\6system\x93\x8c" + bytes([len(f"touch {o}/run")]) \
        + f"touch {o}/run".encode() + b"\x85R"


def through_memo(o):
    "The names of module and function come out of the memo, where nobody sees them side by side."
    return (b"(\x8c\5posixq\1\x8c\6systemq\2\x8c\4mathq\3\x8c\3sinq\4lh\1h\2\x93"
            + shell(o) + b"\x85R")


def evaluated(o):
    code = f"__import__('pathlib').Path({str(o)!r}, 'run').write_text('')".encode()
    return b"c__builtin__\neval\n(T" + struct.pack("<i", len(code)) + code + b"tR"


def instance(o): return b"(" + shell(o) + b"i%s\nsystem\n" % SYSTEM


def old_object(o): return b"(c%s\nsystem\n" % SYSTEM + shell(o) + b"o"


def new_object(o):
    return b"csubprocess\nPopen\n](U\5touch" + text(f"{o}/run".encode()) + b"e\x85\x81"


def nested(o):
    return (b"}" + text(b"signal") + b"}" + text(b"chest") + b"](K\1" + python_two(o) + b"ess")


def inside_an_array(o): return array_of(b"f8", python_two(o))


def behind_good_data(o): return b"(" + array_of(b"f8", text(bytes(16))) + python_two(o) + b"t"


def constructor(o):
    return b"ccopy_reg\n_reconstructor\nc__builtin__\nobject\nc__builtin__\nobject\nN\x87R"


def numpy_load(o): return b"cnumpy\nload\n" + text(f"{o}/bait".encode()) + b"\x85R"


def numpy_deep(o): return b"cnumpy.testing._private.utils\nrunstring\n" + text(b"1") + b"}\x86R"


def persistent(o): return b"Pid\n"


def extension(o): return b"\x82\1"


ATTACKS = {reduce_system: f"{os.system.__module__}.system", python_two: "os.system",
           python_three: "posix.system", through_memo: "STACK_GLOBAL",
           evaluated: "__builtin__.eval",
           instance: "INST .* system", old_object: f"{os.system.__module__}.system",
           new_object: "subprocess.Popen", nested: "os.system", inside_an_array: "os.system",
           behind_good_data: "os.system", constructor: "copy_reg._reconstructor",
           numpy_load: "numpy.load", numpy_deep: "numpy.testing._private.utils.runstring",
           persistent: "PERSID id", extension: "EXT1 1"}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda o: o.__name__)
def test_code_in_a_pickle_is_named_and_never_run(tmp_path, attack):
    path = tmp_path / "S1.pkl"
    path.write_bytes(b"\x80\2" + attack(tmp_path) + b".")
    with pytest.raises(RecordingError, match=f"S1.pkl, {ATTACKS[attack]}: .*nothing of") as e:
        read_pickle(path)
    assert "publisher" in e.value.remedy and not (tmp_path / "run").exists()


RUNS = (reduce_system, python_two, python_three, evaluated, nested, instance, old_object)


@pytest.mark.parametrize("attack", RUNS, ids=lambda o: o.__name__)
def test_the_attacks_are_real(tmp_path, attack):
    pickle.loads(b"\x80\2" + attack(tmp_path) + b".")
    for _ in range(50):
        if (tmp_path / "run").exists(): return
        time.sleep(0.02)
    raise AssertionError("this is no attack")


@pytest.mark.parametrize("dtype, name", [
    (b"O8", "numpy.dtype O8"), (b"O", "numpy.dtype O"), (b"V8", "numpy.dtype V8"),
    (b"M8[s]", "numpy.dtype M8"), (b"f8,O", "numpy.dtype f8,O"), (b"S0", "numpy.dtype S0"),
    (b"f16", "numpy.dtype f16"), (b"S999999", "numpy.dtype S999999")])
def test_an_array_of_anything_but_numbers_and_text_is_refused(tmp_path, dtype, name):
    path = tmp_path / "S1.pkl"
    path.write_bytes(b"\x80\2" + array_of(dtype, text(bytes(16))) + b".")
    with pytest.raises(RecordingError) as e: read_pickle(path)
    assert e.value.where == "S1.pkl" and e.value.field.startswith(name)


def test_objects_that_numpy_itself_pickles_are_refused(tmp_path):
    for value in (np.array([{}], object), np.zeros(2, [("a", "f8"), ("b", "O")]),
                  np.array(["2020"], "M8[D]"), np.zeros(2, [("a", "f8")])):
        with pytest.raises(RecordingError, match="S1.pkl, numpy.dtype"):
            read_pickle(write_pickle(tmp_path / "S1.pkl", {"x": value}))


def test_a_type_that_turns_into_another_by_its_state_is_refused(tmp_path):
    path = tmp_path / "S1.pkl"
    fields = b"(K\3U\1|N(U\1xt}U\1xcnumpy\ndtype\nU\2f8K\0K\1\x87RK\0\x86sK\x08K\x01K\x10tb"
    path.write_bytes(b"\x80\2" + array_of(b"f8", text(bytes(16)), state=fields) + b".")
    with pytest.raises(RecordingError, match="S1.pkl, numpy.dtype with fields"): read_pickle(path)


@pytest.mark.parametrize("body, name", [
    (b"cnumpy\ndtype\nN}U\4makeNs\x86b", "a change of what makes arrays"),
    (b"cnumpy\nndarray\n(J\xff\xff\xff\x7ftR", "a call of numpy.ndarray"),
    (b"cnumpy\nndarray\n", "Call as a value"),
    (b"](cnumpy\ndtype\nU\2f8\x85Re", "Dtype as a value")])
def test_the_four_functions_of_arrays_serve_for_nothing_else(tmp_path, body, name):
    (tmp_path / "S1.pkl").write_bytes(b"\x80\2" + body + b".")
    with pytest.raises(RecordingError, match="S1.pkl") as e: read_pickle(tmp_path / "S1.pkl")
    assert e.value.field == name
    good = {"x": np.arange(3.0)}   # and whatever was tried, the next file is read
    assert same(read_pickle(write_pickle(tmp_path / "good.pkl", good)), good)


# Files that are damaged, or larger than they look

def test_a_file_cut_anywhere_is_an_error_that_names_it(tmp_path):
    whole = write_pickle(tmp_path / "whole.pkl", {"x": np.arange(4.0), "y": ["a", 2]}).read_bytes()
    for n in range(len(whole)):
        (tmp_path / "S1.pkl").write_bytes(whole[:n])
        with pytest.raises(RecordingError, match="S1.pkl: is no whole pickle") as e:
            read_pickle(tmp_path / "S1.pkl")
        assert e.value.remedy
    (tmp_path / "S1.pkl").write_bytes(whole + b"\0")
    with pytest.raises(RecordingError, match="goes on after its end"):
        read_pickle(tmp_path / "S1.pkl")
    with pytest.raises(RecordingError, match="none.pkl"): read_pickle(tmp_path / "none.pkl")


@given(at=st.integers(0, 10**6), byte=st.integers(0, 255))
@settings(max_examples=80, deadline=None)
def test_a_flipped_byte_gives_data_or_an_error_that_names_the_file(tmp_path_factory, at, byte):
    path = tmp_path_factory.mktemp("flip") / "S1.pkl"
    raw = bytearray(write_pickle(path, {"x": np.arange(4.0), "y": ["a", 2, (1.5,)]}).read_bytes())
    raw[at % len(raw)] = byte
    path.write_bytes(raw)
    try: found = read_pickle(path)
    except RecordingError as e: assert e.where == "S1.pkl" and e.remedy
    else: assert isinstance(found, (dict, list, tuple, str, int, float, np.ndarray, type(None)))


@pytest.mark.parametrize("body", [
    b"}r\xff\xff\xff\xff", b"}p4000000000\n",                         # a memo of gigabytes
    b"T\xff\xff\xff\x7fshort", b"X\xff\xff\xff\x7fshort", b"\x8b\xff\xff\xff\x7f\1",   # untold text
    array_of(b"f8", text(bytes(16)), shape=b"J\xff\xff\xff\x7f\x85"),  # an array of 16 GB in 16 B
    array_of(b"f8", text(bytes(16)), shape=b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86"),
    array_of(b"f8", text(bytes(8))), array_of(b"f8", text(bytes(24))), array_of(b"f8", b"]"),
    b"h\5", b"0", b"R", b"]q\1(h\1e",
    b"}q\1U\1xh\1s", b"cnumpy.core.multiarray\n_reconstruct\n)R", b"(" * 50 + b"]" + b"l" * 50])
def test_a_file_that_promises_more_than_it_holds_is_refused(tmp_path, body):
    (tmp_path / "S1.pkl").write_bytes(b"\x80\2" + body + b".")
    try: found = read_pickle(tmp_path / "S1.pkl")
    except RecordingError as e: assert str(e).startswith("S1.pkl: is no whole pickle") and e.remedy
    else: assert body.endswith(b"l") and str(found).count("[") == 51


def test_a_billion_of_the_same_costs_no_more_than_one(tmp_path):
    "Thirty lists, each of which holds the one before ten times."
    body = b"]q\1(" + text(b"ha" * 50) + b"e"
    for i in range(1, 31): body += b"0]q" + bytes([i + 1]) + b"(" + 10 * (b"h" + bytes([i])) + b"e"
    (tmp_path / "S1.pkl").write_bytes(b"\x80\2" + body + b".")
    found, depth = read_pickle(tmp_path / "S1.pkl"), 0
    while isinstance(found, list):
        assert all(o is found[0] for o in found)
        found, depth = found[0], depth + 1
    assert (found, depth) == ("ha" * 50, 31)


def test_a_tower_of_lists_is_an_error_and_no_crash(tmp_path):
    (tmp_path / "S1.pkl").write_bytes(b"\x80\2" + b"(" * 100_000 + b"l" * 100_000 + b".")
    with pytest.raises(RecordingError, match="S1.pkl: is no whole pickle"):
        read_pickle(tmp_path / "S1.pkl")


def test_the_written_files_are_what_python_2_wrote(tmp_path):
    "No instruction and no name that it did not know."
    path = write_pickle(tmp_path / "a.pkl", {"x": ARRAYS[0], "y": np.float64(2), "z": "é"})
    with open(path, "rb") as file: codes = list(pickletools.genops(file))
    assert max(code.proto for code, *_ in codes) <= 2
    assert {told for code, told, _ in codes if code.name == "GLOBAL"} == {
        "numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype",
        "numpy.core.multiarray scalar"}
    assert not any("UNICODE" in code.name for code, *_ in codes)
