"""Position tables on other grids, as PyTorch interpolates them: the numbers in src/vit/positions.rs.

    python tests/parity/make_positions.py

Made with PyTorch 2.x on a CPU. The table has token k's number d = ((7 k + 3 d) mod 11) / 10.
"""

import torch
from torch.nn import functional as F

for side, rows, columns in ((3, 5, 5), (4, 2, 2), (2, 3, 3), (3, 2, 4)):
    table = torch.tensor([[(7 * k + 3 * d) % 11 / 10 for d in range(2)] for k in range(side * side)])
    grid = table.reshape(1, side, side, 2).permute(0, 3, 1, 2)
    scale = (rows / side, columns / side)
    out = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
    assert out.shape[2:] == (rows, columns)
    print(side, rows, columns, [round(x, 6) for x in out.permute(0, 2, 3, 1).flatten().tolist()])
