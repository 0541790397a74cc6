"""Reports: cleaned as published, mended, counted out, and written from statements without a leak."""
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import biossl
from biossl.cohorts.statements import AXIS_CODES, PTB_XL_CODES, SCORED
from biossl.data.clauses import CODES, GROUPS, STATEMENTS, implied, kin, narrower, statement_names
from biossl.data.errors import RecordingError, RequestError, SplitError
from biossl.data.reports import (EMPTY, FIRST, FOREIGN, NO_REPORT, SHORT, assert_withheld, cleaned,
                                 enough_words, from_statements, repaired, report_fault,
                                 report_stream, sift, spoken)

FEW = dict(deadline=None, max_examples=60)
TEXTS = st.text("aZ ekgEKG*=-.\t\r\n1", max_size=24)
SETS = st.sets(st.sampled_from(sorted(CODES)), max_size=8)


# ---- cleaning

def plainly(parts):
    "The published steps one by one, for parts without full stops of their own."
    text = ". ".join(o for o in parts if o.strip())
    for old, new in (("EKG", "ECG"), ("ekg", "ecg"), ("\n", " "), ("\r", " "), ("\t", " ")):
        text = text.replace(old, new)
    while text and text[0] in "* =-.": text = text[1:]
    while text and text[-1] in "* =-.": text = text[:-1]
    return text.lower() + "." if any(o.isalnum() for o in text) else "empty"


@pytest.mark.parametrize("parts, text, least", [
    (["Sinus rhythm", "Normal EKG"], "sinus rhythm. normal ecg.", 4),
    (["Atrial fibrillation"], "atrial fibrillation.", 2),
    (["Sinus rhythm", "", " ", "*** Normal ECG ***"], "sinus rhythm. *** normal ecg.", 4),
    (["==- *Paced rhythm.", "EKG\tas\r\nbefore. ***"], "paced rhythm. ecg as before.", 5),
    (["*** - ="], EMPTY, 0), ([], EMPTY, 0), (["Empty"], EMPTY, 0)])
def test_a_report_is_cleaned_and_its_words_are_counted(parts, text, least):
    assert cleaned(parts) == text
    for count in (1, 3, 4, 5): assert enough_words(text, count) == (least >= count)


@settings(**FEW)
@given(st.lists(st.text("aZkKeEgG*=-", max_size=9), max_size=5))
def test_cleaning_does_the_published_steps(parts):
    expected = plainly(parts)
    if "." not in expected[:-1].replace(". ", ""): assert cleaned(parts) == re.sub(
        r"\.( \.)+", ".", expected.replace("ekg", "ecg"))


@settings(**FEW)
@given(st.lists(TEXTS, max_size=5))
@example(["- .", "a"])
@example([". a. .*."])
def test_a_clean_text_stays_as_it_is_however_its_parts_came(parts):
    text = cleaned(parts)
    assert cleaned(text) == text
    if "." not in "".join(parts): assert cleaned([". ".join(parts)]) == text
    assert text == text.lower() and ".." not in text and not re.search(r"[\r\n\t]|ekg|  ", text)
    assert text == EMPTY or (text.endswith(".") and any(o.isalnum() for o in text))


@pytest.mark.parametrize("damaged, plain", [
    ("#bergang", "uebergang"), ("f#r", "fuer"), ("verlÄngerung", "verlaengerung"),
    ("ÜberhÖht", "ueberhoeht"), ("schweiáausbruch", "schweissausbruch"), ("pÅ", "paa"),
    ("überdreht", "ueberdreht"), ("elleó¬vÄnster", "ellevaenster"), ("ó½ rest", " rest"),
    ("# 3", "# 3"), ("Électrode", "electrode"), ("u\u0308ber", "ueber")])
def test_damaged_umlauts_are_mended_and_written_plainly(damaged, plain):
    assert repaired(damaged) == plain


@pytest.mark.parametrize("text, least, fault", [
    (EMPTY, 0, NO_REPORT), ("***.", 0, NO_REPORT), ("синусовый ритм, норма.", 1, FOREIGN),
    ("窦性心律 正常心电图 a b.", 1, FOREIGN), ("normal ecg.", 4, SHORT), ("normal ecg.", 2, None),
    ("under β blocker: sinusrhythmus, lagetyp normal.", 4, None), ("120 75 3 4.", 4, None)])
def test_what_a_report_is_left_out_for(text, least, fault):
    assert report_fault(text, least) == fault


def test_what_is_left_out_is_counted_by_cause_and_the_rest_keeps_its_rows():
    reports = ["", "Sinusrhythmus, Lagetyp normal, EKG", None, "ритм ритм ритм ритм", "ecg", "a b c d"]
    sifted = sift(reports)
    assert sifted.texts == ("sinusrhythmus, lagetyp normal, ecg.", "a b c d.")
    assert sifted.rows.tolist() == [1, 5]
    assert sifted.dropped == {NO_REPORT: 2, FOREIGN: 1, SHORT: 1}
    assert sum(sifted.dropped.values()) + len(sifted.rows) == len(reports)
    assert sift([]).texts == () and sift([]).rows.dtype == np.int64


@pytest.mark.real
def test_the_publisher_s_reports_become_plain_text(real_data):
    from biossl.cohorts.registry import get_cohort, locate
    from biossl.cohorts.twelve_lead import read_table
    folder = locate(get_cohort("ptb_xl"))
    raw = [o["report"] for o in read_table(folder / "ptbxl_database_metadata.csv", ("report",))]
    sifted = sift(raw, 1)
    assert len(raw) == 6144 and sifted.dropped == {NO_REPORT: 1}
    assert all(o.isascii() and not re.search("#[a-z]", o) for o in sifted.texts)
    assert any("uebergang in v ableitungen" in o for o in sifted.texts)


# ---- the table of statements

def test_both_sets_of_codes_say_the_same():
    assert set(SCORED) | set(PTB_XL_CODES) | set(AXIS_CODES) <= set(CODES)
    for scp, snomed in (PTB_XL_CODES | AXIS_CODES).items():
        if scp != "NORM": assert CODES[scp] in kin([CODES[snomed]]), scp   # a normal ECG says more
    assert CODES["713427006"] == "CRBBB" and "RBBB" in implied("CRBBB")


def test_every_statement_has_phrasings_of_its_own():
    said = [o for s in STATEMENTS.values() for o in s.phrasings]
    assert len(set(said)) == len(said) and all(o == cleaned(o)[:-1] and ". " not in o for o in said)
    assert {len(s.phrasings) for s in STATEMENTS.values()} <= {2, 3, 4}
    known = {*STATEMENTS, *GROUPS}
    assert all(set(s.broader) <= known and s.name not in implied(s.name) - {s.name}
               for s in STATEMENTS.values())


@pytest.mark.real
def test_every_published_code_has_a_statement(real_data):
    from biossl.cohorts.registry import get_cohort, locate
    from biossl.cohorts.twelve_lead import read_table
    scp = {o[""]: o for o in read_table(locate(get_cohort("ptb_xl")) / "scp_statements.csv", ("",))}
    theirs = read_table(locate(get_cohort("chapman_ningbo")) / "ConditionNames_SNOMED-CT.csv",
                        ("Snomed_CT",))
    assert {*scp, *(o["Snomed_CT"] for o in theirs)} <= set(CODES)
    subclass = {o: row["diagnostic_subclass"] for o, row in scp.items() if row["diagnostic_class"]}
    for code, group in subclass.items():                     # the publisher's own hierarchy
        if group in CODES: assert CODES[code] in kin([CODES[group]]), code


def test_no_phrasing_is_a_prompt():
    "Zero-shot asks with names and descriptions; a text to learn from may hold neither."
    folder = Path(biossl.__file__).parent / "prompts"
    if not folder.is_dir(): pytest.skip("the prompts are not in this package")
    asked = {plain(piece) for path in folder.glob("*.json")
             for entry in json.loads(path.read_text()).values()
             for text in entry for piece in [text, *re.split(r"[.;:] ", text)]}
    assert len(asked) > 100
    assert not asked & {plain(o) for s in STATEMENTS.values() for o in s.phrasings}


def plain(text): return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


# ---- reports from statements

@settings(**FEW)
@given(SETS, st.integers(0, 99))
def test_each_statement_has_one_clause_sinus_rhythm_first_and_nothing_is_denied_that_is_there(
        codes, seed):
    text = from_statements(codes, report_stream(seed, "a"))
    names = statement_names(codes)
    bare = from_statements(codes, report_stream(seed, "a"), most=0)
    assert spoken(bare) == names and bare.count(".") == max(len(names), 0 if bare == EMPTY else 1)
    denied = spoken(text) - names
    assert names <= spoken(text) and not denied & kin(names)
    clauses = [spoken(o) for o in text.removesuffix(".").split(". ")] if names else []
    rhythms = sum(o <= set(FIRST) for o in clauses)
    assert all(o <= set(FIRST) for o in clauses[:rhythms]) and rhythms == len(names & set(FIRST))
    assert text == EMPTY or text == cleaned(text)


@settings(**FEW)
@given(SETS, SETS, st.integers(0, 99))
def test_what_zero_shot_asks_for_is_not_spoken_of(codes, never, seed):
    text = from_statements(codes, report_stream(seed, "a"), never=never, absent=CODES)
    assert not spoken(text) & kin(statement_names(never))
    assert spoken(text) >= statement_names(codes) - kin(statement_names(never))
    assert_withheld([text], never)


def test_a_report_depends_on_seed_and_recording_and_not_on_the_order_of_codes():
    codes = ["SR", "LVH", "1AVB", "164909002", "INVT"]
    one = from_statements(codes, report_stream(3, "00007"))
    assert one == from_statements(set(codes), report_stream(3, "00007"))
    assert one == from_statements([*codes[::-1], "SR"], report_stream(3, "00007"))
    texts = {from_statements(codes, report_stream(seed, name))
             for seed in range(5) for name in ("00007", "00008")}
    assert len(texts) > 5
    firsts = {o.split(". ")[1] for o in (from_statements(codes, report_stream(i, "a"))
                                         for i in range(60))}
    assert len({min(spoken(o)) for o in firsts}) >= 4           # the others stand in any order


def test_only_what_is_sure_is_denied():
    def denied(codes, **more):
        names = statement_names(codes)
        return set().union(*(spoken(from_statements(codes, report_stream(i, "a"), **more)) - names
                             for i in range(150)))
    assert denied(["LVH"]) == set()                          # nobody looked for the others
    assert denied(["SR", "LVH"]) == {"AFIB", "AFLT"}         # sinus rhythm excludes both
    assert denied(["SR", "AFIB"]) == set()                   # but not where one is marked as well
    assert {"STE_", "LBBB", "RBBB", "MI", "INVT"} <= denied(["NORM"])
    assert not {"LBBB", "RBBB"} & denied(["NORM", "IRBBB"])
    assert not {"INVT"} & denied(["NORM", "NT_"])            # a changed T might be inverted
    assert denied(["NORM", "1AVB"]).isdisjoint({"LBBB", "RBBB", "AVB"})
    assert denied(["LVH"], absent=["164889003"]) == {"AFIB"}
    assert denied(["PVC"], absent=["PAC"]) == {"PAC"}        # who knows may deny the one of two
    assert denied(["LVH"], absent=["LBBB"]) == set()         # the right branch may be blocked
    assert denied(["NORM"], never=["NORM"]) == set()         # or the denials would tell it
    assert denied(["NORM"], most=0) == set()


def test_withholding_can_fail_and_says_where():
    withheld = from_statements(["SR", "ASMI", "1AVB"], report_stream(0, "a"), never=["MI", "CD"])
    assert spoken(withheld) <= {"SR", "AFIB", "AFLT"}
    assert from_statements(["IMI"], report_stream(0, "a"), never=["MI"]) == EMPTY
    told = from_statements(["ASMI", "SR"], report_stream(0, "a"))
    assert_withheld([told], ["IMI"])
    assert_withheld([told], [])
    for never in (["MI"], ["AMI"], ["54329005"], ["ASMI"]):
        with pytest.raises(SplitError, match="ASMI"): assert_withheld([withheld, told], never)
    with pytest.raises(SplitError, match="AFIB"): assert_withheld(["no atrial fibrillation."], ["AFIB"])
    with pytest.raises(RecordingError, match="no clause"): assert_withheld(["sinus rhythm."], ["MI"])


def test_a_leak_in_the_writing_is_found_by_the_reading(monkeypatch):
    import biossl.data.reports as reports
    monkeypatch.setattr(reports, "kin", lambda names: set(names))   # forgets the kin
    with pytest.raises(SplitError):
        text = from_statements(["ASMI"], report_stream(0, "a"), never=["MI"])
        monkeypatch.undo()
        assert_withheld([text], ["MI"])


def test_the_narrower_and_the_broader_are_kin():
    assert kin(["CLBBB"]) == {"CLBBB", "LBBB", "BBB"} == kin(["733534002"][:0] + ["CLBBB"])
    assert kin(["AMI"]) & {"IMI", "LMI", "ISCA"} == set() and "INJAS" in kin(["AMI"])
    assert {"1AVB", "3AVB", "LAFB", "WPW"} <= narrower(["CD"]) and "BBB" not in narrower(["LBBB"])


@pytest.mark.parametrize("codes, never", [(["AFIBB"], []), (["AFIB"], ["NOTHING"]), (["CD"], [])])
def test_a_code_that_nobody_knows_is_an_error(codes, never):
    with pytest.raises(RequestError, match="no statement has the code"):
        from_statements(codes, report_stream(0, "a"), never=never)
