"""Clusters: numbers against scikit-learn's, nobody told by himself, and what a picture is drawn of."""
import numpy as np
import pytest
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier

from biossl.data.errors import RequestError
from biossl.evaluation.clusters import (Embedded, clustered, clusters, clusters_frame, draw_clusters, flat,
                                        single_rows)


def planted(n=40, classes=3, apart=2.0, seed=0):
    rng = np.random.default_rng(seed)
    own = np.arange(n * classes) % classes
    return rng.normal(size=(n * classes, 6)) + apart * np.eye(6)[own], np.array(list("abc"))[own]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_numbers_are_scikit_learns(metric):
    x, labels = planted()
    found = clustered(x, labels, metric=metric, resamples=50)
    assert found.silhouette.mean == pytest.approx(silhouette_score(x, labels, metric=metric))
    right = [KNeighborsClassifier(1, metric=metric).fit(np.delete(x, i, 0), np.delete(labels, i))
             .predict(x[i:i + 1])[0] == o for i, o in enumerate(labels)]
    assert clustered(x, labels, k=1, metric=metric, resamples=5).accuracy.mean == np.mean(right)
    assert found.n == dict(a=40, b=40, c=40) and found.chance == pytest.approx(1 / 3)


def test_two_classes_have_no_equal_votes_of_nine_and_agree_exactly():
    x, labels = planted(classes=2, apart=1.0)
    right = [KNeighborsClassifier(9).fit(np.delete(x, i, 0), np.delete(labels, i)).predict(x[i:i + 1])[0] == o
             for i, o in enumerate(labels)]
    assert clustered(x, labels, k=9, resamples=5).accuracy.mean == pytest.approx(np.mean(right))


def test_nobody_is_told_by_another_recording_of_the_same_person():
    rng = np.random.default_rng(0)
    people, labels = np.repeat(np.arange(30), 12), np.repeat(rng.permutation(30) % 2, 12).astype(str)
    x = rng.normal(size=(30, 8))[people] + 0.01 * rng.normal(size=(360, 8))    # persons, not classes
    alone, together = (clustered(x, labels, o, resamples=200) for o in (people, None))
    assert together.accuracy.mean == 1 and alone.accuracy.mean < 0.8
    assert alone.accuracy.n == 30
    assert np.ptp(alone.accuracy.interval) > np.ptp(together.accuracy.interval)


def test_rows_have_one_class_alone_of_the_commonest_and_are_drawn_from_a_seed():
    rng = np.random.default_rng(0)
    truth = np.eye(6, dtype=int)[rng.choice(6, 400, p=[.4, .25, .15, .1, .07, .03])]
    truth[::7, 5] = 1                                     # some have two, and are left out
    names = tuple("uvwxyz")
    rows, labels = single_rows(truth, names, count=3, most=20)
    assert (truth[rows].sum(1) == 1).all() and dict(zip(*np.unique(labels, return_counts=True))) == dict(
        u=20, v=20, w=20)
    assert (labels == np.array(names)[truth[rows].argmax(1)]).all() and len(set(rows)) == 60
    assert rows.tolist() == single_rows(truth, names, 3, 20)[0].tolist()
    assert rows.tolist() != single_rows(truth, names, 3, 20, seed=1)[0].tolist()


def test_rows_of_a_table_are_seen_on_the_same_windows():
    x, labels = planted()
    truth = (labels[:, None] == np.array(list("abc"))).astype(int)
    one = Embedded(x, np.arange(120), np.arange(120).astype(str), truth, tuple("abc"))
    noise = Embedded(np.random.default_rng(1).normal(size=(120, 4)), one.rows, one.subjects, truth, one.classes)
    found = clusters(dict(ours=one, untrained=noise), most=25, resamples=50)
    frame = clusters_frame({k: o for k, (_, o) in found.items()})
    value = frame.set_index(["row", "measure"])["value"]
    assert value["ours", "10-NN accuracy"] > value["untrained", "10-NN accuracy"] + 0.3
    assert (frame.windows == 75).all() and frame.classes[0] == "a 25, b 25, c 25"
    fig = draw_clusters(found)
    assert [len(line.get_xdata()) for line in fig.axes[0].lines] == [25, 25, 25]
    with pytest.raises(RequestError, match="untrained"):
        clusters(dict(ours=one, untrained=Embedded(x, one.rows + 1, one.subjects, truth, one.classes)))


def test_pictures_are_repeated_and_need_some_vectors():
    x = planted(n=8)[0]
    np.testing.assert_array_equal(flat(x, 3), flat(x, 3))
    assert flat(x).shape == (24, 2)
    with pytest.raises(RequestError, match="no picture"): flat(x[:4])


@pytest.mark.parametrize("labels", [np.zeros(6), np.arange(6), np.zeros(5)], ids=str)
def test_no_numbers_where_there_are_no_classes(labels):
    with pytest.raises(RequestError): clustered(np.eye(6), labels)
