"""Bring data from annotation tools into the layouts of this repository.

A reader of `readers/` turns one format into the common record (`record.py`); `split.py` divides it; a writer of
`writers/` stores it as COCO, ADE20K or NYU. The readers are our own: labelformat (MIT, 0.1.17 was read) keeps no
annotation ids, areas or crowds, takes run lengths of crowds only, and stops at a missing `iscrowd` or label file.
"""
