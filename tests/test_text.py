"""Reports as numbers, words hidden in them and said again: counts, worked values, second ways."""
import hashlib
import json
import math
import os
import pickle
import re
import subprocess
import sys
import types
import unicodedata
from collections import Counter
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from biossl.cohorts.registry import get_cohort, locate
from biossl.data.errors import MethodError
from biossl.methods.reported import Told
from biossl.nn.layers import parameters
from biossl.nn.sentinels import hide, hidden_words, is_word, most_hidden
from biossl.nn.text import (TEXT_SIZES, SentinelDecoder, TextEncoder, TextSize, WordHead,
                            new_reconstruction, text_loss)
from biossl.nn.tokens import FITTED, Tokenizer, Vocabulary, fit_tokenizer, trimmed
from biossl.nn.views import Several, Share

REPORTS = ["Sinusrhythmus. Linkstyp. T-Veränderungen lateral.", "sinus rhythm. normal ecg.",
           "sinus rhythm. left axis deviation. rate 121.", "vorhofflimmern. überdrehter linkstyp.",
           "atrial fibrillation. prolonged qt interval, rate 122.",
           "sinusrythm. vänsterställd axel"]
TINY = TextSize(16, 2, 2, 32, 400, dropout=0.0)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


@cache
def fitted():
    return fit_tokenizer(REPORTS * 3, 400)


@pytest.fixture
def tokenizer():
    return fitted()


def encoder(tokenizer=None, size=TINY, seed=0, **more):
    "A text encoder in evaluation mode, the same for the same seed."
    torch.manual_seed(seed)
    return TextEncoder.scratch(tokenizer, size, **more).eval()


def numbers(*lengths, pad_to=None):
    "Texts of so many words each, all different words; with their first and last token, padded."
    wide = pad_to or max(lengths) + 2
    rows = [[2, *range(104, 104 + n), 3] + [0] * (wide - n - 2) for n in lengths]
    return torch.tensor(rows)


# ---- texts to numbers

def test_a_vocabulary_is_that_of_its_texts_in_any_order_and_process(tokenizer):
    code = ("from biossl.nn.tokens import fit_tokenizer; import sys, json, hashlib; "
            "t = fit_tokenizer(json.loads(sys.argv[1]), 400); "
            "print(hashlib.sha256(t.text.encode()).hexdigest())")
    ours = hashlib.sha256(tokenizer.text.encode()).hexdigest()
    done = subprocess.run([sys.executable, "-c", code, json.dumps((REPORTS * 3)[::-1])],
                          capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONHASHSEED": "7"})
    assert done.stdout.strip() == ours


def plain_pieces(word, known):
    "The longest known piece first, then the longest that goes on; None if something is unknown."
    pieces, at = [], 0
    while at < len(word):
        for end in range(len(word), at, -1):
            piece = ("##" if at else "") + word[at:end]
            if piece in known: break
        else: return None
        pieces.append(known[piece])
        at = end
    return pieces


@settings(deadline=None, max_examples=40)
@given(st.text(alphabet="abeinorsuäüß1729 .,()[]#-µ中", min_size=1, max_size=40)
       .filter(lambda o: o.strip()))
def test_pieces_are_the_longest_that_fit(text):
    tokenizer = fitted()
    known = tokenizer.model.get_vocab()
    plain = [2]
    for word in re.findall(r"\d|[^\W\d中]+|中|[^\w\s]", text.lower()):
        plain += plain_pieces(word, known) or [1]
    assert tokenizer([text])[0].tolist() == plain + [3]


def test_digits_stand_alone_and_case_does_not_matter(tokenizer):
    a, b = tokenizer(["RATE 121", "rate 1 2 1"])
    assert a.tolist() == b.tolist() and len(set(a[2:-1].tolist())) == 2


def test_composed_and_decomposed_umlauts_are_one_letter_and_stay_umlauts(tokenizer):
    a, b, c = tokenizer(["T-Veränderungen", "T-VERA\u0308NDERUNGEN", "t-veranderungen"])
    assert a.tolist() == b.tolist() != c.tolist()
    assert "ä" in "".join(tokenizer.model.id_to_token(i) for i in a)


def test_what_is_met_once_is_not_learned():
    tokenizer = fit_tokenizer(["sinus rhythm"] * 2 + ["zq µ"], 400)
    assert tokenizer.unknown(tokenizer(["sinus", "zq", "µ sinus"])).tolist() == [0, 1, .5]
    words = fit_tokenizer(["sinus rhythm"] * 2 + ["zq µ"], 400, "word")
    assert words.vocabulary.size == 106
    assert words.unknown(words(["sinus", "zq", "µ sinus"])).tolist() == [0, 1, .5]


@pytest.mark.parametrize("level", ["piece", "word"])
def test_no_text_makes_a_special_number(level):
    names = [f"[S{i}]" for i in range(1, 101)] + ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = fit_tokenizer(REPORTS + names * 2, 600, level)
    for text in (" ".join(names), "".join(names), " ".join(names).lower()):
        ids = tokenizer([text])[0]
        assert (ids[0], ids[-1]) == (2, 3) and (ids[1:-1] >= 104).all()


def test_special_numbers(tokenizer):
    assert tokenizer.vocabulary == Vocabulary(tokenizer.vocabulary.size)
    assert [tokenizer.model.id_to_token(i) for i in (0, 1, 2, 3, 4, 103)] == [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[S1]", "[S100]"]


@pytest.mark.parametrize("text", ["窦性心律", "синусовый ритм", "صفحة", "♥♥", "\u0000x\ufffd"])
def test_other_alphabets_are_unknown_and_nothing_worse(tokenizer, text):
    ids = tokenizer([text])
    share = tokenizer.unknown(ids)
    assert np.isfinite(share).all() and share[0] == (1 if text[-1] != "\ufffd" else share[0])
    encoded = encoder(tokenizer).encode([text], .15, draw())
    assert torch.isfinite(encoded.pooled).all() and torch.isfinite(encoded.tokens).all()


@pytest.mark.parametrize("wrong,said", [([""], "text 0"), (["sinus", " \n\t"], "text 1"),
                                        (["sinus", "\u0000\u200b"], "text 1"), ([], "no texts"),
                                        (["sinus", None], "text 1.*NoneType"),
                                        (["a", "b", math.nan], "text 2.*float")])
def test_an_empty_report_is_named(tokenizer, wrong, said):
    with pytest.raises(MethodError, match=said): tokenizer(wrong)


def test_padding_reaches_as_far_as_the_longest_text_at_hand(tokenizer):
    short, both = tokenizer(REPORTS[1:2]), tokenizer(REPORTS[:2])
    assert (short != 0).all() and (both[1][:short.shape[1]] == short[0]).all()
    assert not both[1][short.shape[1]:].any() and both.dtype == np.int16


def test_what_is_cut_off_is_counted():
    whole, short = (fit_tokenizer(REPORTS * 2, 400, longest=n) for n in (128, 9))
    assert not whole.cut(REPORTS).any()
    lengths = (whole(REPORTS) != 0).sum(1)
    assert short.cut(REPORTS).tolist() == [max(n - 9, 0) for n in lengths]
    assert short(REPORTS).shape == (6, 9)
    assert ((short(REPORTS)[:, -1] == 3) == (lengths >= 9)).all()


def test_a_tokenizer_is_kept_as_one_text(tokenizer, tmp_path):
    path = tokenizer.save(tmp_path / "deep" / "tokenizer.json")
    again = Tokenizer.load(path)
    assert again == tokenizer and (again(REPORTS) == tokenizer(REPORTS)).all()
    assert pickle.loads(pickle.dumps(again)) == tokenizer and hash(again) == hash(tokenizer)


@pytest.mark.parametrize("content", ["", "{}", '{"version": "1.0"}', "\x80"])
def test_a_broken_file_is_refused_by_name(content, tmp_path):
    (tmp_path / "t.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(MethodError, match="t.json"): Tokenizer.load(tmp_path / "t.json")
    with pytest.raises(MethodError, match="none.json"): Tokenizer.load(tmp_path / "none.json")


def test_a_tokenizer_without_special_tokens_is_refused(tmp_path):
    from tokenizers import Tokenizer as Model, models
    model = Model(models.WordLevel({"a": 0, "[PAD]": 1}, unk_token="a"))
    (tmp_path / "t.json").write_text(model.to_str())
    with pytest.raises(MethodError, match=r"t.json.*\[UNK\], \[CLS\], \[SEP\]"):
        Tokenizer.load(tmp_path / "t.json")


def test_what_cannot_be_fitted():
    for texts, options, said in ((REPORTS, dict(level="letter"), "no level"), ([], {}, "no texts"),
                                 (["", " "], {}, "no word"), (["a b"], {}, "no word"),
                                 (REPORTS * 2, dict(size=110), "room"),
                                 ([*REPORTS, None], {}, "text 6")):
        with pytest.raises(MethodError, match=said): fit_tokenizer(texts, **options)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_columns_of_padding_are_cut(kind):
    ids = kind(numbers(3, 9, 2, pad_to=60).tolist())
    assert trimmed(ids).shape == (3, 16) and trimmed(ids, multiple=1).shape == (3, 11)
    assert trimmed(ids[1:], multiple=100).shape == (2, 60)
    assert (trimmed(ids)[:, :11] == ids[:, :11]).all()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(REPORTS), min_size=1, max_size=9), st.data())
def test_a_batchs_rows_find_the_reports_of_the_windows_trained_on(texts, data):
    rows = data.draw(st.lists(st.integers(0, 99), min_size=len(texts), max_size=len(texts),
                              unique=True))
    told, tokenizer = Told(rows, texts, fitted()), fitted()
    asked = data.draw(st.permutations(range(len(rows))))
    number = told.number([rows[i] for i in asked])
    for i, n in zip(asked, number):
        alone = tokenizer([texts[i]])[0]
        assert told.ids[n][:len(alone)].tolist() == alone.tolist()
        assert not told.ids[n][len(alone):].any()
    assert (told.ids == tokenizer(sorted(set(texts)))).all()          # each once
    others = sorted(set(range(100)) - set(rows))
    with pytest.raises(MethodError, match="row: .*not known"): told.number([rows[0], others[0]])
    with pytest.raises(MethodError, match="not known"): told.number(others[-1:])


def test_texts_are_told_apart_by_what_they_say():
    texts = ["sinus rhythm.", "Sinus rhythm.", "sinus rhythm.", "sinusrhythmus f\u00fcr"]
    number = Told([5, 9, 2, 7], texts, fitted()).number([5, 9, 2, 7])
    assert number[0] == number[2] and len(set(number.tolist())) == 3


def test_words_that_are_cut_up_are_counted(tokenizer):
    texts = ["sinus rhythm", "sinus nuissi", "rhythm 窦 sinus .", "tniass"]
    assert tokenizer.broken(texts).tolist() == [0, .5, .25, 1]
    words = fit_tokenizer(REPORTS * 3, 400, "word")
    assert (words.broken(texts) == words.unknown(words(texts))).all()


@pytest.mark.real
def test_reports_of_ptb_xl_hold_no_unknown_piece_but_for_letters_met_once(real_data):
    folder = locate(get_cohort("ptb_xl"))
    table = pd.read_csv(folder / "ptbxl_database_metadata.csv").dropna(subset="report")
    table = table[table.report.str.strip() != ""]   # one report is a space
    train, test = ([*table.report[o]] for o in (table.strat_fold < 9, table.strat_fold > 8))
    tokenizer = fit_tokenizer(train)
    met = Counter("".join(unicodedata.normalize("NFC", o).lower() for o in train))
    rare = {o for o in "".join([*train, *test]).lower() if met[o] < 2 and not o.isspace()}
    for texts in (train, test):
        unknown = tokenizer.unknown(tokenizer(texts)) > 0
        assert not tokenizer.cut(texts).any()
        assert [o for o, lost in zip(texts, unknown, strict=True)
                if lost and not rare & set(o.lower())] == []
    assert tokenizer.unknown(tokenizer(test)).mean() < .01 < .9 < tokenizer.unknown(
        tokenizer(["心房颤动 窦性"])).mean()
    assert tokenizer == fit_tokenizer(train[::-1])


# ---- words hidden

def plain_hide(ids, hidden, span):
    "One text with what is `hidden` replaced, and what is to be said, word by word."
    shown, said, counted, number = [], [], [], 0
    for i, token in enumerate(ids):
        if not hidden[i]:
            shown.append(token)
            continue
        if not span or i == 0 or not hidden[i - 1]:
            shown.append(4 + number)
            said, counted, number = said + [4 + number], counted + [False], number + 1
        said, counted = said + [token], counted + [True]
    return shown + [0] * (len(ids) - len(shown)), said + [3], counted + [False]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.sampled_from(["token", "span"]),
       st.floats(.01, 1), st.integers(0, 9))
def test_hiding_agrees_with_word_by_word(lengths, kind, ratio, seed):
    ids = numbers(*lengths)
    shown, targets = hide(ids, ratio, draw(seed), sentinel=kind)
    for i, n in enumerate(lengths):
        hidden = targets.hidden[i].tolist()
        assert sum(hidden) == (min(max(round(ratio * n), 1), 100) if n else 0)
        plain, said, counted = plain_hide(ids[i].tolist(), hidden, kind == "span")
        assert shown[i].tolist() == plain
        rest = targets.sequence.shape[1] - len(said)
        assert rest >= 0 and targets.sequence[i].tolist() == said + [0] * rest
        assert targets.counted[i].tolist() == counted + [False] * rest


def test_the_number_of_sentinels_limits_what_is_hidden():
    assert most_hidden(666, .15, FITTED) == 100 == most_hidden(5000, .15, FITTED)
    ids = numbers(700, 665, 20)
    assert hidden_words(ids, .15, draw(), FITTED, 702).sum(1).tolist() == [100, 100, 3]
    few = Vocabulary(sentinels=2)
    shown, targets = hide(ids, .15, draw(), few, longest=702)
    assert targets.hidden.sum(1).tolist() == [2, 2, 2] and ((shown > 3) & (shown < 104)).sum() == 6
    assert targets.sequence.shape == (3, 5)


def test_special_and_unknown_tokens_are_never_hidden():
    ids = torch.tensor([[2, 1, 1, 200, 1, 3, 0, 0]]).repeat(200, 1)
    assert (hidden_words(ids, 1., draw(), FITTED) == is_word(ids, FITTED)).all()
    assert is_word(ids, FITTED)[0].tolist() == [False] * 3 + [True] + [False] * 4


def test_every_word_is_hidden_equally_often_and_texts_differ():
    ids = numbers(10).repeat(6000, 1)
    hidden = hidden_words(ids, .3, draw(), FITTED)
    assert (hidden.sum(1) == 3).all() and len(hidden.unique(dim=0)) == 120
    share = hidden[:, 1:-1].double().mean(0)
    assert (share - .3).abs().max() < 5 * (.3 * .7 / 6000) ** .5


def test_what_is_hidden_does_not_depend_on_padding_and_follows_the_generator():
    narrow, wide = numbers(8, 5), numbers(8, 5, pad_to=40)
    (a, _), (b, _) = (hide(o, .4, draw(3)) for o in (narrow, wide))
    assert (a == b[:, :a.shape[1]]).all() and not b[:, a.shape[1]:].any()
    assert (a == hide(narrow, .4, draw(3))[0]).all()
    assert (a != hide(narrow, .4, draw(4))[0]).any()


def test_several_runs_and_several_processes_draw_as_one():
    ids = numbers(9, 4, 12, 7)
    runs = Several((draw(1), draw(2)))
    own = [hide(ids[:2], .4, draw(1))[0], hide(ids[2:], .4, draw(2))[0]]
    assert (hide(ids, .4, runs)[0] == torch.cat(own)).all()
    whole = hide(ids, .4, draw(1))[0]
    for rank in (0, 1):      # whatever the padding of each
        part = slice(2 * rank, 2 * rank + 2)
        mine = trimmed(ids[part], multiple=1)
        assert (hide(mine, .4, Share(draw(1), rank, 2))[0] == whole[part, :mine.shape[1]]).all()


def test_no_other_sentinel():
    with pytest.raises(MethodError, match="token or span"):
        hide(numbers(3), .5, draw(), sentinel="t5")


# ---- the loss

def plain_text_loss(logits, truth, counted):
    "Equation 3 in float64, one word after the other."
    texts = []
    for row, words, marks in zip(logits.double().tolist(), truth.tolist(), counted.tolist()):
        each = [math.log(sum(math.exp(o) for o in scores)) - scores[word]
                for scores, word, mark in zip(row, words, marks) if mark]
        if each: texts.append(sum(each) / len(each))
    return sum(texts) / len(texts) if texts else 0.


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 6))
def test_loss_agrees_with_plain_loops(seed, n, length):
    g = draw(seed)
    logits = torch.randn(n, length, 7, generator=g) * 3
    truth = torch.randint(7, (n, length), generator=g)
    counted = torch.rand(n, length, generator=g) < .4
    assert text_loss(logits, truth, counted).item() == pytest.approx(
        plain_text_loss(logits, truth, counted), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("hidden", [1, 2, 5])
def test_equal_odds_of_eight_cost_their_logarithm(hidden):
    counted = torch.arange(6).expand(3, 6) < hidden
    loss = text_loss(torch.full((3, 6, 8), 2.5), torch.zeros(3, 6, dtype=torch.long), counted)
    assert loss.item() == pytest.approx(2.079442, abs=1e-6)


def costing(*losses):
    "Logits `(L, 2)` of which the first class costs so much."
    return torch.tensor([[0., math.log(math.expm1(o))] for o in losses])


def test_means_over_words_then_over_texts():
    logits = torch.stack([costing(4, 9, 9), costing(1, 1, 1), costing(5, 5, 5)])
    counted = torch.tensor([[True, False, False], [True] * 3, [False] * 3])
    loss = text_loss(logits, torch.zeros(3, 3, dtype=torch.long), counted)
    assert loss.item() == pytest.approx(2.5, abs=1e-6)          # not 7/4, and not (4 + 1)/3


def test_nothing_hidden_costs_nothing():
    logits = torch.randn(2, 3, 8, requires_grad=True)
    truth = torch.zeros(2, 3, dtype=torch.long)
    loss = text_loss(logits, truth, truth > 0)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


@pytest.mark.parametrize("kind", ["seq2seq", "mlm"])
def test_losses_are_float32_under_bfloat16(tokenizer, kind):
    text = encoder(tokenizer)
    head = new_reconstruction(kind, 16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = head(text, text.encode(REPORTS, .15, draw()))
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    truth = torch.zeros(1, 2, dtype=torch.long)
    even = text_loss(torch.zeros(1, 2, 8, dtype=torch.bfloat16), truth, truth == 0)
    assert even.item() == pytest.approx(math.log(8), abs=1e-6)


# ---- the encoder

def test_count_of_weights():
    d, hidden = 256, 1024
    attention, thought, norm = 4 * d * d + 4 * d, 2 * d * hidden + hidden + d, 2 * d
    whole = (4000 + 128) * d + 4 * (attention + thought + 2 * norm) + norm
    assert parameters(TextEncoder.scratch()) == whole == 4_216_320
    decoder = 2 * (2 * attention + thought + 3 * norm) + norm + 201 * d
    assert parameters(SentinelDecoder()) == decoder
    assert sorted(parameters(TextEncoder.scratch(size=o)) for o in TEXT_SIZES.values())[-1] == whole


def of_attention(name, look):
    "The weights of an attention as torch names them."
    return {f"{name}.in_proj_weight": look.taken.weight, f"{name}.in_proj_bias": look.taken.bias,
            f"{name}.out_proj.weight": look.given.weight, f"{name}.out_proj.bias": look.given.bias}


def as_torch(text):
    "The same blocks as torch's own encoder, of the same weights."
    blocks = []
    for block in text.reader.blocks:
        own = nn.TransformerEncoderLayer(16, 2, 32, 0., "gelu", batch_first=True, norm_first=True)
        look, (first, second) = block.looks[0], block.norms
        own.load_state_dict({
            **of_attention("self_attn", look),
            "linear1.weight": block.think[0].weight, "linear1.bias": block.think[0].bias,
            "linear2.weight": block.think[2].weight, "linear2.bias": block.think[2].bias,
            "norm1.weight": first.weight, "norm1.bias": first.bias,
            "norm2.weight": second.weight, "norm2.bias": second.bias})
        blocks.append(own.eval())
    return blocks


def test_encoder_agrees_with_torchs_own(tokenizer):
    text = encoder(tokenizer)
    ids = text.ids(REPORTS)
    x = text.reader.table[ids] + text.reader.places.table[:ids.shape[1]]
    with torch.no_grad():
        for block in as_torch(text): x = block(x, src_key_padding_mask=ids == 0)
        x = text.reader.last(x)
        encoded = text.encode(REPORTS)
    assert torch.allclose(encoded.tokens[ids != 0], x[ids != 0], atol=1e-5)
    for i, row in enumerate(ids.tolist()):
        kept = [x[i, j] for j, number in enumerate(row) if number not in (0, 1, 2, 3)]
        assert torch.allclose(encoded.pooled[i], sum(kept) / len(kept), atol=1e-5)
    assert (encoded.mask == (ids != 0)).all() and encoded.targets is None


def test_a_text_is_read_alike_alone_and_among_longer_ones(tokenizer):
    text = encoder(tokenizer)
    with torch.no_grad():
        together = text.encode(REPORTS).pooled
        for i, report in enumerate(REPORTS):
            assert torch.allclose(text.encode([report]).pooled[0], together[i], atol=1e-6)


def test_numbers_are_read_as_their_texts(tokenizer):
    text, ids = encoder(tokenizer), tokenizer(REPORTS)
    with torch.no_grad():
        whole = text(REPORTS)
        for kind in (ids, torch.from_numpy(ids), torch.from_numpy(ids).long()):
            assert torch.equal(text(kind), whole)
        a, b = (text.encode(o, .3, draw()).pooled for o in (ids, REPORTS))
        assert torch.equal(a, b)
        assert torch.equal(text("sinus rhythm")[0], text(["sinus rhythm"])[0])


def test_order_matters_and_sentinels_are_read(tokenizer):
    text = encoder(tokenizer)
    with torch.no_grad():
        assert not torch.allclose(*text(["left axis", "axis left"]), atol=1e-4)
        shown = text.encode(REPORTS, .15, draw()).pooled
    assert not torch.allclose(shown, text(REPORTS), atol=1e-4)


def test_hidden_words_do_not_reach_the_encoder():
    text = encoder()
    ids = torch.arange(104, 124).view(1, 20)          # every word is another one
    encoded = text.encode(ids, .3, draw())
    encoded.tokens.square().sum().backward()
    moved = text.reader.words.weight.grad.any(1)
    assert encoded.targets.hidden.sum() == 6
    assert (moved[ids[0]] == ~encoded.targets.hidden[0]).all() and moved[4:10].all()
    assert moved.sum() == 14 + 6


# ---- the decoder

def as_torchs_decoder(block):
    "A decoder's block as torch's own, of the same weights."
    own = nn.TransformerDecoderLayer(16, 2, 32, 0., "gelu", batch_first=True, norm_first=True)
    state = {f"norm{i + 1}.{k}": v for i, norm in enumerate(block.norms)
             for k, v in norm.state_dict().items()}
    for name, look in zip(("self_attn", "multihead_attn"), block.looks):
        state |= of_attention(name, look)
    for name, layer in (("linear1", block.think[0]), ("linear2", block.think[2])):
        state |= {f"{name}.{k}": v for k, v in layer.state_dict().items()}
    own.load_state_dict(state)
    return own.eval()


def asked(tokenizer, seed=0, **options):
    "A text encoder, a decoder, and what the first makes of reports with hidden words."
    text = encoder(tokenizer, seed=seed, **options)
    decoder = SentinelDecoder(16, 2, 2, 32, 0.).eval()
    return text, decoder, text.encode(REPORTS, .3, draw(seed))


@pytest.mark.parametrize("kind", ["token", "span"])
def test_decoder_agrees_with_torchs_own(tokenizer, kind):
    text, decoder, encoded = asked(tokenizer, sentinel=kind)
    said = encoded.targets.sequence
    assert torch.equal(said, hide(text.ids(REPORTS), .3, draw(), sentinel=kind)[1].sequence)
    begun = torch.cat([torch.full((len(said), 1), FITTED.start), said[:, :-1]], 1)
    x = text.reader.table[begun] + decoder.places.table[:said.shape[1]]
    later = nn.Transformer.generate_square_subsequent_mask(said.shape[1]) < 0
    with torch.no_grad():
        for block in decoder.blocks:
            x = as_torchs_decoder(block)(x, encoded.tokens, later,
                                         memory_key_padding_mask=~encoded.mask)
        logits = decoder.last(x) @ text.reader.table.T
        assert torch.allclose(decoder.logits(text, encoded), logits, atol=1e-4)
        loss = plain_text_loss(logits, said, encoded.targets.counted)
        assert decoder(text, encoded).item() == pytest.approx(loss, rel=1e-4)


def test_a_word_is_asked_for_before_it_is_told(tokenizer):
    text, decoder, encoded = asked(tokenizer)
    with torch.no_grad(): before = decoder.logits(text, encoded)
    for at in range(encoded.targets.sequence.shape[1]):
        told = encoded.targets.sequence.clone()
        told[:, at] = (told[:, at] + 7) % 300
        with torch.no_grad():
            other = replace(encoded, targets=replace(encoded.targets, sequence=told))
            after = decoder.logits(text, other)
        same = (after - before).abs().amax((0, 2)) < 1e-6
        assert same[:at + 1].all() and not same[at + 1:at + 2].any()


def test_decoder_looks_at_the_encoder_and_not_at_padding(tokenizer):
    text, decoder, encoded = asked(tokenizer)
    with torch.no_grad():
        before = decoder.logits(text, encoded)
        for where, same in ((~encoded.mask, True), (encoded.mask, False)):
            other = encoded.tokens + 3 * torch.randn(encoded.tokens.shape) * where[..., None]
            after = decoder.logits(text, replace(encoded, tokens=other))
            assert torch.allclose(after, before, atol=1e-5) is same


def test_the_answer_at_a_hidden_words_own_place(tokenizer):
    text = encoder(tokenizer)
    head, encoded = WordHead(16), text.encode(REPORTS, .3, draw())
    logits = head.think(encoded.tokens) @ text.reader.table.T
    truth = torch.from_numpy(tokenizer(REPORTS)).long()
    loss = plain_text_loss(logits, truth, encoded.targets.hidden)
    assert head(text, encoded).item() == pytest.approx(loss, rel=1e-4)
    spans = encoder(tokenizer, sentinel="span")
    with pytest.raises(MethodError, match="place of their own"):
        head(spans, spans.encode(REPORTS, .3, draw()))


@pytest.mark.parametrize("kind", ["seq2seq", "mlm"])
def test_every_weight_is_reached_and_a_text_without_words_is_no_nan(tokenizer, kind):
    text = encoder(tokenizer)
    head = new_reconstruction(kind, 16)
    encoded = text.encode([*REPORTS, "窦性"], .15, draw())
    assert not encoded.pooled[-1].any() and not encoded.targets.hidden[-1].any()
    loss = head(text, encoded)
    alone = head(text, text.encode(REPORTS, .15, draw()))
    (loss + encoded.pooled.square().sum()).backward()
    weights = [*text.named_parameters(), *head.named_parameters()]
    assert not [k for k, p in weights if p.grad is None or not torch.isfinite(p.grad).all()]
    assert torch.isfinite(alone)


def test_hidden_words_are_learned(tokenizer):
    torch.manual_seed(0)
    text, decoder = TextEncoder.scratch(tokenizer, TINY), SentinelDecoder(16, 1, 2, 32, 0.)
    optimiser = torch.optim.Adam([*text.parameters(), *decoder.parameters()], 1e-2)
    g, first = draw(), None
    for _ in range(60):
        loss = decoder(text, text.encode(REPORTS, .15, g))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        first = first or loss.item()
    assert loss.item() < first * .75


def test_same_seed_same_loss_bit_for_bit(tokenizer):
    losses = []
    for seed in (3, 3, 4):
        text, decoder, encoded = asked(tokenizer, seed)
        losses.append(decoder(text, encoded).item())
    assert losses[0] == losses[1] != losses[2]


def test_no_other_way_to_reconstruct():
    with pytest.raises(MethodError, match="seq2seq or mlm"): new_reconstruction("t5", 16)


# ---- kept and asked wrongly

def test_the_tokenizer_is_kept_among_the_weights(tokenizer, tmp_path):
    from safetensors.torch import load_file, save_file
    text, other = encoder(tokenizer), encoder(seed=1)
    save_file(text.state_dict(), tmp_path / "w.safetensors")
    other.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert other.tokenizer == tokenizer and torch.equal(other(REPORTS), text(REPORTS))
    save_file(encoder().state_dict(), tmp_path / "none.safetensors")
    fresh = encoder(seed=1)
    fresh.load_state_dict(load_file(tmp_path / "none.safetensors"))
    assert fresh.tokenizer is None


def test_what_an_encoder_refuses(tokenizer):
    text = encoder(tokenizer)
    with pytest.raises(MethodError, match="no tokenizer"): encoder().encode(REPORTS)
    with pytest.raises(MethodError, match="S <= 128"): text.encode(np.zeros((1, 129), int))
    with pytest.raises(MethodError, match="shape"): text.encode(np.zeros(5, int))
    with pytest.raises(MethodError, match="generator"): text.encode(REPORTS, .15)
    with pytest.raises(MethodError, match="1.5"): text.encode(REPORTS, 1.5, draw())
    with pytest.raises(MethodError, match="has 110"):
        encoder(size=replace(TINY, vocabulary=110)).tokenizer = tokenizer
    with pytest.raises(MethodError, match="reads 16"):
        encoder(size=replace(TINY, longest=16)).tokenizer = tokenizer


# ---- a folder with a model

WORDS = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sinus", "rhythm", "normal",
         "ec", "##g", "."]


class StubModel(nn.Module):
    "What is used of a model of BERT's kind: two layers, a pooler, the names of its parts."
    def __init__(self, width=8):
        super().__init__()
        self.config = SimpleNamespace(hidden_size=width, max_position_embeddings=32)
        self.word_embeddings = nn.Embedding(len(WORDS), width)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.pooler = nn.Linear(width, width)

    def get_input_embeddings(self): return self.word_embeddings

    def forward(self, inputs_embeds, attention_mask):
        x = inputs_embeds * attention_mask[..., None]
        for layer in self.encoder.layer: x = x + layer(x).tanh()
        pooled = None if self.pooler is None else self.pooler(x[:, 0]).tanh()
        return SimpleNamespace(last_hidden_state=x, pooler_output=pooled)


def stub_folder(folder, monkeypatch, missing=()):
    "A folder, and a package `transformers` that reads it from there and from nowhere else."
    from tokenizers import Tokenizer as Model, models, normalizers, pre_tokenizers, processors
    backend = Model(models.WordPiece({o: i for i, o in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 4), ("[CLS]", 3))
    torch.manual_seed(0)
    for name in ("config.json", "vocab.txt", "model.safetensors"): (folder / name).write_text("{}")

    def read(path, local_files_only, output_loading_info=False):
        assert path == folder and local_files_only
        if not output_loading_info: return SimpleNamespace(backend_tokenizer=backend)
        return StubModel(), dict(missing_keys=set(missing))
    auto = SimpleNamespace(from_pretrained=read)
    package = types.ModuleType("transformers")
    package.AutoTokenizer = package.AutoModel = auto
    monkeypatch.setitem(sys.modules, "transformers", package)


def real_folder(folder, monkeypatch):
    "A folder that `transformers` itself wrote."
    package = pytest.importorskip("transformers", reason="transformers is not installed")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    config = package.BertConfig(vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=2,
                                num_attention_heads=2, intermediate_size=16,
                                max_position_embeddings=32)
    torch.manual_seed(0)
    package.BertModel(config).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')


FOLDERS = pytest.mark.parametrize("written", [stub_folder, real_folder],
                                  ids=["stub", "transformers"])


@FOLDERS
@pytest.mark.parametrize("pool", ["pooler", "cls", "mean"])
def test_a_folder_is_read(written, pool, tmp_path, monkeypatch):
    written(tmp_path, monkeypatch)
    text = TextEncoder.from_folder(tmp_path, frozen=1, pool=pool).eval()
    assert text.width == 8 and text.reader.longest == text.tokenizer.longest == 32
    assert any("pooler" in k for k, _ in text.named_parameters()) is (pool == "pooler")
    ids = text.ids(["Sinus rhythm.", "normal ECG", "ритм"])
    assert ids.tolist() == [[3, 6, 7, 11, 4], [3, 8, 9, 10, 4], [3, 2, 4, 0, 0]]
    whole = text.encode(ids)
    assert torch.allclose(text(["ритм"])[0], whole.pooled[2], atol=1e-6)
    model = text.reader.model
    out = model(inputs_embeds=model.get_input_embeddings()(ids), attention_mask=(ids != 0).long())
    plain = dict(pooler=out.pooler_output, cls=out.last_hidden_state[:, 0],
                 mean=torch.stack([*out.last_hidden_state[:2, 1:4].mean(1), torch.zeros(8)]))[pool]
    assert torch.equal(whole.tokens, out.last_hidden_state)
    assert torch.allclose(whole.pooled, plain, atol=1e-6)


@FOLDERS
def test_sentinels_of_a_folder_have_vectors_that_learn(written, tmp_path, monkeypatch):
    written(tmp_path, monkeypatch)
    text = TextEncoder.from_folder(tmp_path, frozen="all").eval()
    assert text.vocabulary == Vocabulary(12, 0, 2, 3, 4, sentinel=12)
    for kind in ("token", "span"):
        text.sentinel = kind
        encoded = text.encode(["sinus rhythm. normal ecg."] * 8, .5, draw())
        loss = SentinelDecoder(8, 1, 2)(text, encoded) + encoded.pooled.sum()
        text.zero_grad()
        loss.backward()
        moved = text.reader.sentinels.weight.grad.any(1)
        assert moved[:2].all() and not moved[8:].any()
        assert not [k for k, p in text.reader.model.named_parameters() if p.grad is not None]


@FOLDERS
@pytest.mark.parametrize("frozen,still", [("all", {0, 1}), (2, {0, 1}), (1, {0}), (0, set())])
def test_layers_that_stay_as_they_are(written, frozen, still, tmp_path, monkeypatch):
    written(tmp_path, monkeypatch)
    model = TextEncoder.from_folder(tmp_path, frozen).reader.model
    for i, layer in enumerate(model.encoder.layer):
        assert {p.requires_grad for p in layer.parameters()} == {i not in still}
    others = [p.requires_grad for k, p in model.named_parameters() if "encoder.layer" not in k]
    assert set(others) == {frozen != "all"}


@pytest.mark.parametrize("gone", ["config.json", "vocab.txt", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(gone, tmp_path, monkeypatch):
    stub_folder(tmp_path, monkeypatch)
    (tmp_path / gone).unlink()
    with pytest.raises(MethodError, match=f"has no .*{gone}.*whole published folder"):
        TextEncoder.from_folder(tmp_path)


def test_weights_that_a_folder_lacks_are_not_made_up(tmp_path, monkeypatch):
    stub_folder(tmp_path, monkeypatch, missing=["pooler.dense.weight"])
    with pytest.raises(MethodError, match="lacks weights: pooler.dense.weight"):
        TextEncoder.from_folder(tmp_path, 0)
    TextEncoder.from_folder(tmp_path, 0, pool="cls")
    stub_folder(tmp_path, monkeypatch, missing=["encoder.layer.1.x"])
    with pytest.raises(MethodError, match="encoder.layer.1.x"):
        TextEncoder.from_folder(tmp_path, 0, pool="cls")


def test_what_a_folder_is_asked_wrongly(tmp_path, monkeypatch):
    with pytest.raises(MethodError, match="is no folder"): TextEncoder.from_folder(tmp_path / "no")
    stub_folder(tmp_path, monkeypatch)
    for frozen in (3, -1, "some"):
        with pytest.raises(MethodError, match="of 2 layers"):
            TextEncoder.from_folder(tmp_path, frozen)
    with pytest.raises(MethodError, match="pool"): TextEncoder.from_folder(tmp_path, 0, pool="max")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MethodError, match="transformers.*pip install"):
        TextEncoder.from_folder(tmp_path)


def test_unreadable_weights_of_a_folder_are_refused(tmp_path, monkeypatch):
    real_folder(tmp_path, monkeypatch)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(MethodError, match="cannot be read"): TextEncoder.from_folder(tmp_path, 0)
