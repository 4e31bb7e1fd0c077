"""Predict with an exported run where there is no torch and no repository: pip install numpy onnxruntime

python onnx_only.py model.onnx image.npy mask.npy
"""

import json
import sys

import numpy as np
import onnxruntime

_, model, source, target = sys.argv if len(sys.argv) == 4 else sys.exit(__doc__)
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
described = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
image = np.load(source)  # (H, W) or (H, W, C)
if described["input"]["normalization"] != "zscore":
    raise SystemExit(f"this script knows zscore; the model wants: {described['input']['preprocessing']}")
pixels = image.reshape(*image.shape[:2], -1).transpose(2, 0, 1).astype(np.float64)
spread = pixels.std((1, 2), keepdims=True)
pixels = (pixels - pixels.mean((1, 2), keepdims=True)) / np.where(spread > 0, spread, 1)
(scores,) = session.run(["scores"], {"image": pixels[None].astype(np.float32)})  # (1, classes, H, W)
how, matrix = described["mask"], described["mask"]["scores_times_matrix_before"]
scores = scores if matrix is None else np.einsum("bihw,ij->bjhw", scores, matrix)  # corrected for known label noise
threshold, moved = how["threshold"], how["outlines_moved_by_pixels"]
left_out = [f"the outlines of masks moved by {moved:+g} pixels"] if moved else []
left_out += ["hot pixels mended"] if image.dtype.itemsize > 1 and abs(pixels).max() > 10 else []
print(*(f"the model also wants {what}, which this script leaves out\n" for what in left_out), sep="", end="")
mask = scores[0].argmax(0) if threshold is None else scores[0, 0] >= threshold
np.save(target, mask.astype(np.uint8))
print(f"{source} {image.shape} → {target}: {mask.mean():.1%} foreground")
