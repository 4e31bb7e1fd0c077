"""The table of engines: ratios of processor time, and what the gate of int8 refused."""

from __future__ import annotations

from benchmarks.speed.engines import tables


def record(turn: int, cpu: dict[str, float], refused: dict[str, str]) -> dict:
    ways = {
        way: {"images_per_second": 1 / used, "cpu_seconds_per_image": used, "iou": 0.9, "bytes": 2_000_000}
        for way, used in cpu.items()
    }
    return {"cell": {"dataset": "nuc", "turn": turn}, "ways": ways, "refused": refused}


def test_ratios_are_of_the_fastest_turn_and_refusals_are_told():
    refused = {"openvino-int8": "--to openvino-int8 is refused: …"}
    slow = record(0, {"torch fp32": 0.09, "torch bf16": 0.03, "onnx fp32": 0.05}, refused)
    fast = record(1, {"torch fp32": 0.08, "torch bf16": 0.04, "onnx fp32": 0.02}, refused)
    lines = tables([slow, fast])["engines"].splitlines()
    assert lines[4] == "| nuc | onnx fp32 | 50.0 | 20.0 | 4.00× | 1.50× | 0.9000 | 2.0 |"
    assert lines[-1] == "nuc: --to openvino-int8 is refused: …"
