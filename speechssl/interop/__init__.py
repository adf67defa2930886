"""Other projects' checkpoints, both ways: one file or folder per project.

A conversion reads weights without executing anything, renames tensors, and compares the outputs of
both sides before it writes. What projects share:

``projects``     which there are, and what each of them has
``conversion``   names and forms of tensors, and what our side computes
``settings``     their settings as a table
``weights``      reading files of tensors, and (``pickles``) of more than tensors
``certificate``  the comparison, and what is kept of it
``folders``      writing model folders and theirs
"""
