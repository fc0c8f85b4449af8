"""Exit policies: rules that choose the exit for each sample."""

from keras_adaptive.policy.agreement_policy import AgreementPolicy as AgreementPolicy
from keras_adaptive.policy.confidence import confidence as confidence
from keras_adaptive.policy.confidence import log_odds as log_odds
from keras_adaptive.policy.confidence import softmax as softmax
from keras_adaptive.policy.exit_policy import ExitPolicy as ExitPolicy
from keras_adaptive.policy.learned_policy import LearnedPolicy as LearnedPolicy
from keras_adaptive.policy.patience_policy import PatiencePolicy as PatiencePolicy
from keras_adaptive.policy.policy import Policy as Policy
