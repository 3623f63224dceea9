"""One step of training as the trainer compiles it, to be timed again and again."""

from measuring.command import clocked
from nid_jax import tasks
from nid_jax.training.loop import Trainer


class TrainingStep:
    """Calling it takes a step on one batch, the state donated, and returns the step's terms.

    dense: the step of the warm-up, or that after it.
    """

    def __init__(self, config, collection, dense=True):
        config.train.scan = "off"
        self.trainer = Trainer(tasks.build(config), config, None, collection)
        self.batch = self.trainer.feeder.feed(0, 1)
        number = 0 if dense else self.trainer.warmup_steps
        self.program, self.compile_seconds = clocked(self.trainer.step_for, number, self.batch)

    def __call__(self):
        # The trainer lets go of the state, as its loop does, so that the step may write over it.
        state, self.trainer.state = self.trainer.state, None
        self.trainer.state, terms = self.program(state, self.batch)
        return terms
