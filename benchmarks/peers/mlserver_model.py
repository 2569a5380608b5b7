"""MLServer's model; PEER_WORKLOAD says what it loads."""

from __future__ import annotations

from typing import Any

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceResponse
from work import WORKLOAD, load, shifted


class Model(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        if WORKLOAD != "payload":
            self.run = load()
        return True

    async def predict(self, payload: Any) -> Any:
        if WORKLOAD == "payload":
            outputs = [NumpyCodec.encode_output("output", shifted(NumpyCodec.decode_input(payload.inputs[0])))]
            return InferenceResponse(model_name=self.name, outputs=outputs)
        codec = NumpyCodec if WORKLOAD == "tiny" else StringCodec
        answers = np.asarray(self.run(codec.decode_input(payload.inputs[0])), dtype=np.float32)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("output", answers)])
