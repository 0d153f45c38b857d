from __future__ import annotations

from local_models.config import EngineConfig
from local_models.engine import load_engine
from local_models.sequence import SamplingParams

GREEDY = SamplingParams(temperature=0, ignore_eos=True)


def test_a_busy_past_does_not_make_an_idle_engine_look_slow(tiny):
    now = [100.0]

    def clock_s() -> float:
        now[0] += 0.5  # every look at the clock takes half a second
        return now[0]

    engine = load_engine(EngineConfig(model=str(tiny[0]), quantize="none"), clock_s=clock_s)
    engine.generate([[5, 6, 7]], GREEDY, 2)
    assert engine.stats.predicted_ttft_s(engine.scheduler) >= 0.5
    now[0] += 60
    assert engine.stats.predicted_ttft_s(engine.scheduler) == 0
