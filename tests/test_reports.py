"""Reports: cleaned as published, mended, counted out, and written from statements without a leak."""
import json
import re

import layouts_12lead
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import biossl.data.reports as reports
from biossl.cohorts.benchmarks import CLASSES, PTB_XL_SETS
from biossl.cohorts.open_12lead import OpenTwelveLead
from biossl.cohorts.ptb_xl import PtbXl
from biossl.cohorts.registry import locate
from biossl.cohorts.simulated_12lead import Simulated12Lead, absent_codes
from biossl.cohorts.statements import AXIS_CODES, PTB_XL_CODES, SCORED
from biossl.data.clauses import CODES, GROUPS, STATEMENTS, implied, kin, narrower, statement_names
from biossl.data.errors import RecordingError, RequestError, SplitError
from biossl.data.reports import (EMPTY, FIRST, FOREIGN, NO_REPORT, SHORT, assert_withheld, cleaned,
                                 enough_words, from_statements, repaired, report_fault,
                                 report_stream, sift, spoken)
from biossl.data.simulate_12lead import findings
from biossl.data.store import store_key
from biossl.data.windowing import Windowing
from biossl.cohorts.prompts import prompts_folder

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
    for code, row in scp.items():                            # the publisher's own hierarchy
        for group in filter(None, (row["diagnostic_class"], row["diagnostic_subclass"])):
            assert CODES[code] in kin(statement_names([group.strip("_")], groups=True)), code


@pytest.mark.parametrize("name", PTB_XL_SETS)
def test_every_class_that_zero_shot_asks_for_can_be_withheld(name):
    everything = [o for o in CODES if o.isdigit() or o in PTB_XL_CODES]
    for asked in CLASSES[name]:
        text = from_statements(everything, report_stream(0, asked), never=[asked], absent=everything)
        assert CODES.get(asked, asked) not in spoken(text) and len(spoken(text)) > 40


def test_no_phrasing_is_a_prompt():
    "Zero-shot asks with names and descriptions; a text to learn from may hold neither."
    asked = {plain(piece) for path in prompts_folder().glob("*.json")
             for entry in json.loads(path.read_text()).values()
             for text in entry for piece in [text, *re.split(r"[.;:] ", text)]}
    assert len(asked) > 200
    assert not asked & {plain(o) for o in reports._SPOKEN}


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
    names = statement_names(codes)
    assert spoken(text) >= names - kin(statement_names(never))
    assert not (spoken(text) - names) & kin(names)      # whoever calls it absent: it is marked
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


# ---- reports as labels of cohorts

def labels_of(cohort, folder=None):
    return {o.name: o.labels for o in cohort.recordings(folder)}


def test_ptb_xl_gives_three_texts_and_only_when_asked(tmp_path):
    rows = [layouts_12lead.ptb_xl_row(1, report="sinusrhythmus r-s #bergang"),
            layouts_12lead.ptb_xl_row(2, report="", heart_axis="LAD",
                                      scp_codes="{'SR': 0.0, 'CRBBB': 100.0}")]
    folder = layouts_12lead.ptb_xl(tmp_path, rows)
    usual = labels_of(PtbXl(), folder)
    assert not {"report_english", "report_codes"} & set(usual["00001"])
    (folder / "ptbxl_reports_english_fold10.csv").write_text(
        "ecg_id,report\n2,Sinus rhythm. Right bundle branch block.\n")
    labels = labels_of(PtbXl(reports=True), folder)
    for name, told in labels.items(): assert usual[name].items() <= told.items()
    assert labels["00001"]["report"] == "sinusrhythmus r-s #bergang"     # as published
    assert labels["00001"]["report_english"] == ""
    assert labels["00002"]["report_english"] == "Sinus rhythm. Right bundle branch block."
    assert spoken(labels["00002"]["report_codes"]) - {"AFIB", "AFLT"} == {"SR", "CRBBB", "LAD"}
    hidden = labels_of(PtbXl(reports=True, withheld="CD"), folder)["00002"]["report_codes"]
    assert spoken(hidden) - {"AFIB", "AFLT"} == {"SR", "LAD"}


def test_open_12lead_passes_reports_on_and_writes_the_others(tmp_path, home, monkeypatch):
    layouts_12lead.open_12lead(tmp_path / "in")
    (tmp_path / "in/ptb_xl/ptbxl_reports_english_a.csv").write_text("ecg_id,report\n1001,Slow AV\n")
    monkeypatch.setenv("BIOSSL_DATA", str(tmp_path / "in"))
    folder = locate(OpenTwelveLead())
    usual, labels = labels_of(OpenTwelveLead(), folder), labels_of(OpenTwelveLead(reports=True), folder)
    assert list(usual) == list(labels) and "report" not in usual["00001"]
    assert {o: told["report"] for o, told in labels.items() if told["report"]} == {
        o: "sinusrhythmus" for o in ("00001", "00002", "00003", "01001")}
    assert [o for o, told in labels.items() if told["report_english"]] == ["01001"]
    says = {name: spoken(told["report_codes"]) for name, told in labels.items()}
    assert says["00002"] >= {"SR", "NORM", "LAD"} and says["01001"] >= {"1AVB", "RAD"}
    assert says["E00001"] - {"AFIB", "AFLT"} == {"SR", "LVOLT"}          # SNOMED
    assert says["01002"] - {"AFIB", "AFLT"} == {"SR", "CRBBB", "AVB", "NT_"}  # lists of statements
    alone = labels_of(PtbXl(rate=500, reports=True), folder / "ptb_xl")
    assert alone["00002"]["report_codes"] == labels["00002"]["report_codes"]
    asked = ["270492004", "CRBBB"]
    texts = [o["report_codes"] for o in labels_of(
        OpenTwelveLead(reports=True, withheld=",".join(asked)), folder).values()]
    assert_withheld(texts, asked)
    with pytest.raises(SplitError): assert_withheld([o["report_codes"] for o in labels.values()], asked)


def test_virtual_patients_have_reports_that_are_true():
    cohort = Simulated12Lead(subjects=60, reports=True)
    truth = {f"s12_{o.number:04d}": o for o in cohort.simulation(*range(60)).readings}
    usual, few = labels_of(Simulated12Lead(subjects=3)), labels_of(Simulated12Lead(3, reports=True))
    labels = labels_of(cohort)
    denials = 0
    for name, told in labels.items():
        findings, text = {CODES[code] for code, o in SCORED.items() if o in told["dx"]}, told["report"]
        assert enough_words(text, 2) and {o for o in told["dx"]} <= {
            SCORED[code] for o in spoken(text) for code in STATEMENTS[o].codes if code in SCORED}
        for clause in text.removesuffix(".").split(". "):
            if re.match("no |neither|.* not ", clause) and "qrs axis" not in clause:
                denials += 1
                assert not findings & narrower(spoken(clause)), (clause, told["dx"])
                assert not ("bundle" in clause and truth[name].conduction in ("left", "right"))
            else: assert spoken(clause) <= findings | {
                "JR", "MID", "IMI", "AMI", "LMI"} | kin(findings), (clause, told["dx"])
    assert denials > 20 and len({o["report"] for o in labels.values()}) > 40
    assert {o: few[o]["report"] for o in usual} == {o: labels[o]["report"] for o in usual}
    other = labels_of(Simulated12Lead(subjects=3, seed=1, reports=True))
    assert other["s12_0000"]["report"] != few["s12_0000"]["report"]
    silent = labels_of(Simulated12Lead(subjects=60, reports=True, withheld="CD,MI,QWAVE"))
    assert_withheld([o["report"] for o in silent.values()], ["CD", "MI"])


def test_a_slow_branch_is_not_called_prompt_because_no_class_names_it():
    readings = Simulated12Lead().simulation(*range(120)).readings
    slow = [o for o in readings if o.conduction == "right" and not {"CRBBB", "IRBBB"} & {*findings(o)}]
    assert slow and not any("RBBB" in absent_codes(o) for o in slow)
    assert not any("AVB" in absent_codes(o) for o in readings if not o.pr <= 0.2)   # NaN: no P waves
    assert all("PAC" not in absent_codes(o) for o in readings if 1 in o.kinds)
    assert any({"RBBB", "AVB", "PAC"} <= {*absent_codes(o)} for o in readings)


KEYS = {  # of stores that were made before there were reports
    "open_12lead": (OpenTwelveLead, dict(members="all", keep_unlabelled=False)),
    "ptb_xl": (PtbXl, dict(rate=100)),
    "simulated_12lead": (Simulated12Lead, dict(subjects=240, seconds=10.0, rate=100.0, seed=0,
                                               noise=1.0))}


@pytest.mark.parametrize("name", KEYS)
def test_stores_without_reports_keep_their_keys_and_others_have_their_own(name):
    made, options = KEYS[name]
    assert made().fingerprint(None)["options"] == options
    windowing = Windowing(signals=(("ecg", 100.0),), seconds=10, hop=10, beats=())
    keys = [store_key(o, windowing) for o in (
        made(), made(reports=True), made(reports=True, withheld="MI"),
        made(reports=True, withheld=" MI , CD,"), made(reports=True, withheld="CD,MI"))]
    assert len(set(keys)) == 4 and keys[-1] == keys[-2]
    with pytest.raises(RequestError, match="NOTHING"): made(withheld="MI,NOTHING")


def test_reports_of_a_store_are_sifted_from_its_index(home):
    from biossl.data.store import pack
    windows = pack(Simulated12Lead(subjects=8, reports=True), Windowing(
        signals=(("ecg", 100.0),), seconds=10, hop=10, beats=()))
    sifted = sift(windows.index["report"].tolist(), 3)
    assert len(sifted.rows) + sum(sifted.dropped.values()) == 8 and len(sifted.rows)
    assert all(o == cleaned(o) for o in sifted.texts)
