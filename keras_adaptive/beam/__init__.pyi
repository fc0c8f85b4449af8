# The public names, imported when they are first used. Type checkers read this file too.
from .cascade import Cascade as Cascade
from .handler import AdaptiveModelHandler as AdaptiveModelHandler
from .handler import Inference as Inference
from .score_files import ScoreFiles as ScoreFiles
from .scoring import score as score
