"""Hugging Face transformers: wav2vec 2.0 and HuBERT folders, both ways (transformers 4.57).

transformers' ``Wav2Vec2Model`` and ``HubertModel`` are the same network as ``Encoder``;
config.json says which of its forms. ``Wav2Vec2ForPreTraining`` adds what ``Contrastive`` owns;
``Wav2Vec2ForCTC`` and ``HubertForCTC`` add the head of ``CTCModel``. Reading and writing needs
nothing of transformers; comparing outputs needs it installed.

``layout``      settings and names of tensors on both sides
``vocabulary``  the tokenizer's files and ``Tokens``
``parity``      both sides compute the same recordings
``reading``     from their folder to a model folder
``writing``     from a model folder to theirs
"""
