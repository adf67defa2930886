"""What each layer of an encoder knows: linear probes and clusters of frozen features.

1. ``labels``     cuts -> what is to be told from each: who, which language, which word, which phone
2. ``division``   which cuts are learned from, and which are held out
3. ``vectors``    cuts -> vectors of each layer, on disk
4. ``measures``   the vectors of a layer -> accuracy of a linear probe, or purity of clusters
5. ``report``     the measures of all layers as a table and a picture

``run.probe`` does all of it.
"""
