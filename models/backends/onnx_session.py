"""ONNX Runtime: a graph without operators of anybody else's, from bytes that were verified, on one thread."""

from collections.abc import Mapping, Sequence

import onnxruntime  # type: ignore[import-untyped]

from models.backends.compiled import Form
from models.backends.framed import Framed
from models.document import OutputSpec
from models.errors import BackendUnavailable
from models.handoff_folder import HandOff
from models.tensors import Array


class OnnxRunner(Framed):
    """A session. Outputs that nobody asked for are not computed where nothing else needs them."""

    name = "onnx"

    def __init__(self, handoff: HandOff, form: Form, data: bytes, *, threads: int | None) -> None:
        """Open the graph in ``data``. Raises BackendUnavailable when this ONNX Runtime cannot."""
        super().__init__(handoff, writes=form.writes)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait leave the core to others
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # a class of its own for every code
            raise BackendUnavailable(f"ONNX Runtime must be able to open the model, it says: {problem!s:.300}") from problem
        taken = [node.name for node in self._session.get_inputs()]
        given = [node.name for node in self._session.get_outputs()]
        if len(taken) != len(form.inputs) or len(given) != len(form.outputs):
            raise BackendUnavailable(f"the graph must take {len(form.inputs)} inputs and give {len(form.outputs)} outputs, it does not")
        self._taken = dict(zip((item.name for item in form.inputs), taken, strict=True))
        self._given = dict(zip((item.name for item in form.outputs), given, strict=True))

    def compute(self, inputs: Mapping[str, Array], wanted: Sequence[OutputSpec]) -> Mapping[str, Array]:
        """Run the graph as far as the wanted outputs need it."""
        names = [spec.name for spec in wanted]
        found = self._session.run([self._given[name] for name in names], {self._taken[name]: array for name, array in inputs.items()})
        return dict(zip(names, found, strict=True))
