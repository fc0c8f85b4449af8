"""`ScoreShards`: computes shards in the workers of Beam."""

import apache_beam

from keras_adaptive.beam.scoring import Scorer


class ScoreShards(apache_beam.DoFn):
    """Computes shards and writes their answers; each thread has a predictor of its own.

    Args:
        *arguments: Of `Scorer`.
    """

    def __init__(self, *arguments):
        self._arguments, self._scorer = arguments, None

    def setup(self):
        self._scorer = Scorer(*self._arguments)

    def teardown(self):
        if self._scorer is not None:
            self._scorer.close()

    def process(self, shard):
        self._scorer.score(shard)
