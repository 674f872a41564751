"""Recording: what the JSON of a recipe holds, and what it leaves out."""

from jaxmini import data, models
from jaxmini.export import Layout
from jaxmini.run.formats import Onnx
from jaxmini.run.recording import record_of
from jaxmini.run.stage import Export, Recipe, Supervised

TEACHER = Supervised(name="teacher", data=data.digits(), model=models.classifier(10))


def test_a_layout_is_recorded_only_where_it_is_set():
    usual, other = Export(TEACHER, "float32"), Layout(input="uint8", batch=4)
    exports = usual, Export(TEACHER, "float32", "litert", layout=other), Onnx(TEACHER, "float32")
    first, second, third = record_of(Recipe((TEACHER,), exports))["exports"].values()
    assert first == {
        "stage": {"stage": "teacher"},
        "variant": "float32",
        "backend": "jax2tf",
        "name": None,
    }
    assert second["layout"]["fields"] == {"input": "uint8", "batch": 4}
    assert third == first | {"backend": "onnx"}
