"""The server of the guide, as it is printed there, on the loopback interface."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from anytime_tflite import BatchPredictor

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "serving.md"


@pytest.fixture(scope="module")
def server(exported):
    (code,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
        if "class Handler" in block
    )
    names = {}
    exec(compile(code, GUIDE.name, "exec"), names)
    names["Handler"].log_message = lambda *_: None
    with (
        BatchPredictor(exported, workers=2) as predictor,
        names["serve"](predictor, port=0) as made,
    ):
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server, body, query=""):
    return json.load(urlopen(f"http://127.0.0.1:{server.server_port}/{query}", data=body))


@pytest.fixture(scope="module")
def images(digits):
    return digits.images("test", 40)[0]


def test_many_clients_get_the_answers_of_the_predictor(server, images):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda image: ask(server, image.tobytes()), images))
    expected = server.predictor.predict(images)
    assert [answer["exit"] for answer in answers] == expected.exits.tolist()
    assert [answer["label"] for answer in answers] == expected.labels.tolist()
    for answer, probabilities in zip(answers, expected.probabilities, strict=True):
        assert answer["probability"] == pytest.approx(float(probabilities.max()), abs=1e-5)


def test_the_deadline_is_in_the_request(server, images):
    slow = next(i for i, exit in enumerate(server.predictor.predict(images).exits) if exit == 2)
    answer = ask(server, images[slow].tobytes(), "?deadline_ms=0")
    assert (answer["exit"], answer["stopped_by"]) == (0, "deadline")
    answer = ask(server, images[slow].tobytes(), "?deadline_ms=60000")
    assert (answer["exit"], answer["stopped_by"]) == (2, "end")


@pytest.mark.parametrize(
    ("body", "query", "message"),
    [
        (b"short", "", "The body must be 64 bytes. Received: 5"),
        (b"x" * 64, "?deadline_ms=soon", "could not convert string to float: 'soon'"),
        (b"x" * 100_000, "", "Received: 100000"),
    ],
)
def test_what_is_no_image_is_refused(server, body, query, message):
    with pytest.raises(HTTPError) as raised:
        ask(server, body, query)
    assert raised.value.code == 400
    assert message in json.load(raised.value)["error"]
