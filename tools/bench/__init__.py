"""speechssl timed beside transformers, torchaudio and fairseq2: ``python -m tools.bench --help``.

``cases``     what is timed, and on what
``systems/``  one file per system: how it does the work of a case
``worker``    the process that one system works in
``contest``   starts the workers of a case and lets them take turns
``flops``     what the network of a case computes
``report``    table, bench.json, machine.json and figure
"""
