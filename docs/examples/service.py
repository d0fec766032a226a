"""A service that scores texts: ``MODEL=hf:… DETECTOR=a.detector uvicorn service:app``."""

import os

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from repdyn import RepdynError
from repdyn.ood import MonitoredModel, conformal_p_values, load_detector

detector = load_detector(os.environ["DETECTOR"])
monitored = MonitoredModel(os.environ["MODEL"], detector)
app = FastAPI()


class Texts(BaseModel):
    texts: list[str] = Field(min_length=1, max_length=64)


@app.post("/score")
def score(given: Texts) -> dict[str, list[float] | list[bool]]:
    answer = monitored(given.texts)  # requests that arrive together take turns
    scores = answer.scores.tolist()
    p_values = conformal_p_values(detector.calibration_scores_, scores).tolist()
    return {"score": scores, "flagged": answer.flagged.tolist(), "p_value": p_values}


@app.exception_handler(RepdynError)
def refuse(request: Request, error: RepdynError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=422)
