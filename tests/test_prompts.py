"Prompts: their files are whole, say what defines a class, and are asked for by names that exist."
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biossl.data.errors import RequestError
from biossl.cohorts.prompts import (CONTROLS, EXCLUDED, MODES, SETS as CLASSES, Prompt, class_prompt,
                                       prompt_text, prompt_texts, prompts, prompts_folder)

SETS = (*CLASSES, EXCLUDED)
ROOT = Path(__file__).parents[1]


# ---- what the sentences say

@pytest.mark.parametrize("name", SETS)
def test_keys_are_the_classes_and_texts_are_short_and_told_apart(name):
    found = prompts(name)
    if name == EXCLUDED: assert set(found) == {"SB", "LVQRSAL", "IDC", "VPE"}
    else: assert list(found) == list(CLASSES[name])
    for column in zip(*found.values()): assert len(set(column)) == len(found)
    for o in found.values():
        assert len(prompt_text(o).split()) <= 39
        assert o.description.endswith(".") and not o.name.endswith(".")


def test_there_are_130_and_4_of_no_class():
    assert [len(prompts(o)) for o in SETS] == [5, 23, 19, 12, 9, 38, 24, 4]
    assert not set(prompts(EXCLUDED)) & set(CLASSES["csn"])


def test_simulated_patients_can_be_asked_for_all_of_their_classes():
    from biossl.cohorts.registry import get_cohort
    task = get_cohort("simulated_12lead").task("dx")
    assert list(prompt_texts(task.name)) == list(task.classes)


# A description that names another class of its set, because the one implies the other
IMPLIED = {("csn", "VB", "VPB"), ("csn", "RVH", "ARS"), ("csn", "MI", "STTC"),
           ("ptbxl_form", "NDT", "INVT")}


def test_no_description_names_another_class_but_where_one_implies_the_other():
    named = {(name, key, other) for name in CLASSES for key, o in prompts(name).items()
             for other, p in prompts(name).items()
             if other != key and p.name.lower() in o.description.lower()}
    assert named == IMPLIED


UNITS = (r"\d+(\.\d+)?( ms|\.?\d* mV| beats per minute| per minute|:\d|,? to \d+| and \d+|"
         r" degrees)")


@pytest.mark.parametrize("name", SETS)
def test_every_number_has_a_unit_and_amplitudes_are_in_millivolts(name):
    for key, o in prompts(name).items():
        text = re.sub(r"\b(V[1-6]|[24]:1)\b", "", o.description)
        for number in re.finditer(r"\d+(\.\d+)?", text):
            assert re.match(UNITS, text[number.start():]), (key, text[number.start():])
        assert not re.search(r"\d (mm|uV|s)\b", o.description), key


BRITISH = re.compile("ischaem|oedema|neighbour|colour|centre|behaviour|isation")


@pytest.mark.parametrize("name", SETS)
def test_spelling_is_american_as_in_reports(name):
    assert not BRITISH.search(" ".join(map(prompt_text, prompts(name).values())))


# Findings that tell a class from the one it is most easily taken for, in any set that has both:
# (classes, words it has to say, words that would make it the other)
TELLING = [
    (("AFIB",), "irregular", "sawtooth|flutter"),
    (("AFLT", "AFL"), "sawtooth", "fibrill|irregular"), (("STach",), "more than 100", "fewer"),
    (("SBRAD", "SB"), "fewer than 60", "above|more than 100"),
    (("STACH",), "more than 100", "fewer"), (("1AVB", "IAVB", "LPR", "PRIE"), "200 ms", "dropped|short"),
    (("CRBBB", "RBBB"), "V1", "notched"), (("CLBBB", "LBBB"), "notched R", "rSR"),
    (("IMI", "ISCI"), "II, III and aVF", "V1"), (("LMI",), "I, aVL, V5 and V6", "II|V1"),
    (("PMI",), "V1 to V3", "II"), (("ALS", "LAD"), "positive QRS in I, negative in II", "plus"),
    (("ARS", "RAD"), "negative QRS in I, positive in aVF", "minus"),
    (("CR",), "late, in V5 or V6", "early"), (("CCR",), "early, in V1 or V2", "late"),
    (("STDD", "STD"), "below|depressed", "elevat|above|raised"),
    (("STTU",), "elevated", "below|depress"), (("LVOLT", "LVQRSAL", "LQRSV"), "below 0.5 mV", "large|tall"),
    (("HVOLT",), "large", "below"), (("LAO/LAE",), "notched", "peaked"),
    (("RAO/RAE",), "peaked", "notched"), (("WPW", "VPE"), "PR interval below 120 ms", "200"),
    (("RVH",), "R.{0,6} in V1", "tall R in V5"), (("LVH",), "tall R.{0,8} in V5", "right axis"),
    (("VPB", "PVC", "VPC", "VEB"), "wide|broad", "narrow"),
    (("APB", "PAC", "JEB"), "narrow", "wide|broad"), (("VEB", "JEB"), "late", "early"),
    (("VPB", "PVC", "VPC", "PAC"), "early", "late"), (("LAnFB",), "rS in II, III and aVF", "plus"),
    (("IRBBB",), "V1.*110 and 120 ms", "120 ms or more"), (("PR",), "spikes", "sinus"),
    (("Brady",), "fewer than 60.*without sinus", "regular"), (("TInv",), "Negative", "flat")]


@pytest.mark.parametrize("classes, says, never", TELLING)
def test_defining_findings_are_said_and_those_of_the_opposite_are_not(classes, says, never):
    asked = [(name, key) for name in SETS for key in prompts(name) if key in classes]
    assert len({key for _, key in asked}) == len(classes)
    for name, key in asked:
        text = prompts(name)[key].description
        assert re.search(says, text), (name, key, text)
        assert not re.search(never, text), (name, key, text)


def test_keys_that_mislead_are_named_for_what_their_publisher_means():
    csn, dx = prompts("csn"), prompts("dx")
    assert (dx["AF"].name, dx["PR"].name) == ("atrial fibrillation", "pacing rhythm")
    assert (csn["AF"].name, csn["AFIB"].name) == ("atrial flutter", "atrial fibrillation")
    assert csn["ST"].name == "sinus tachycardia" and csn["TWO"].name == "inverted T wave"
    assert csn["CR"].name == "clockwise rotation" and "axis" in csn["ALS"].name
    assert not re.search("rais|elev", csn["STE"].description)
    assert "non-specific" in prompts("ptbxl_form")["STE"].name
    assert "raised" in prompts("cpsc2018")["STE"].description


# ---- how they are asked for

@pytest.mark.parametrize("name", CLASSES)
def test_modes_are_parts_of_one_sentence_in_lower_case(name):
    told = {mode: prompt_texts(name, mode) for mode in MODES}
    for key, o in prompts(name).items():
        assert told["both"][key] == f"{o.name}. {o.description}".lower()
        assert told["both"][key] == f"{told['name'][key]} {told['description'][key]}"


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(list(CLASSES)), st.integers(0, 2**31))
def test_permuted_prompts_are_all_there_and_none_in_its_place(name, seed):
    own, dealt = prompt_texts(name), prompt_texts(name, control="permuted", seed=seed)
    assert list(dealt) == list(own) and sorted(dealt.values()) == sorted(own.values())
    assert not [o for o in own if own[o] == dealt[o]]
    assert dealt == prompt_texts(name, control="permuted", seed=seed)


@pytest.mark.parametrize("name", CLASSES)
def test_controls_say_what_they_are_for(name):
    own, text = prompts(name), {o: prompt_texts(name, control=o, seed=3) for o in CONTROLS}
    alone = {o: prompt_texts(name, "name", o, seed=3) for o in CONTROLS}
    finds = {o: prompt_texts(name, "description", o, seed=3) for o in CONTROLS}
    for key, o in own.items():
        assert alone["negated"][key] == f"no {o.name.lower()}."
        assert text["negated"][key].count("no ") >= 2
        assert not re.match("no (a|an|the|no) ", finds["negated"][key])
        assert alone["mismatched"][key] == alone["none"][key]
        assert finds["mismatched"][key] != finds["none"][key]
        words = set(re.findall("[a-z]+", text["wrong"][key]))
        assert not words & {"qrs", "ecg", "wave", "waves", "rhythm", "heart", "atrial", "sinus",
                            "ventricular", "beat", "beats", "pr", "qt"}
    assert len(set(text["wrong"].values())) == len(own)
    everything = [tuple(o.values()) for o in text.values()]
    assert len(set(everything)) == len(CONTROLS)
    orders = {tuple(prompt_texts(name, control="wrong", seed=o).values()) for o in range(4)}
    assert len(orders) == 4


# ---- what goes wrong

def written(folder, **changes):
    found = {key: list(o) for key, o in prompts("cpsc2018").items()} | changes
    (folder / "cpsc2018.json").write_text(json.dumps(found))
    return folder


def test_own_prompts_are_taken(tmp_path):
    own = written(tmp_path, STD=["depressed ST", "Lower than it should be."])
    assert prompts("cpsc2018", own)["STD"] == Prompt("depressed ST", "Lower than it should be.")
    assert prompt_texts("cpsc2018", folder=own)["STD"] == "depressed st. lower than it should be."


@pytest.mark.parametrize("changes, message", [
    (dict(AFLT=["atrial flutter", "Sawtooth."]), "AFLT is no class of cpsc2018"),
    (dict(STD=["ST depression"]), "STD: is not .name, description"),
    (dict(STD=["ST depression", " "]), "STD: is not .name, description"),
    (dict(STD="ST depression"), "STD: is not .name, description")])
def test_a_file_with_an_unknown_class_or_half_a_prompt_is_told(tmp_path, changes, message):
    with pytest.raises(RequestError, match=message): prompts("cpsc2018", written(tmp_path, **changes))


@pytest.mark.parametrize("text, message", [
    ("{}", "has no prompt for 1AVB, AFIB"), ("[]", "is not .name"), ("{", "cannot be read"),
    (None, "cannot be read")])
def test_a_file_that_is_none_is_told(tmp_path, text, message):
    if text: (tmp_path / "cpsc2018.json").write_text(text)
    with pytest.raises(RequestError, match=message): prompts("cpsc2018", tmp_path)


@pytest.mark.parametrize("ask, message", [
    (lambda: prompts("csn_exclude"), "no prompts for csn_exclude.*csn_excluded"),
    (lambda: prompts("../csn"), "no prompts for"),
    (lambda: class_prompt("ptbxl_rhythm", "AFIBB"), "no class AFIBB.*AFIB"),
    (lambda: prompt_text(Prompt("a", "b"), "bothe"), "no mode bothe.*both"),
    (lambda: prompt_texts("csn", control="permute"), "no control permute.*permuted")])
def test_what_there_is_not_is_answered_with_the_nearest(ask, message):
    with pytest.raises(RequestError, match=message): ask()


def test_the_prompts_have_one_home_which_travels_with_the_package():
    assert prompts_folder() == ROOT / "nbs/prompts"
    assert {o.stem for o in prompts_folder().glob("*.json")} == {*SETS, "unrelated"}
    assert np.all(["nbs/prompts" in (ROOT / o).read_text() for o in ("setup.py", "MANIFEST.in")])
