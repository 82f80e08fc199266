"""Supervised learning on the labeled images alone: the yardstick of every other method."""

from tfssl.ema import twin, warmed_up
from tfssl.kinds import Share
from tfssl.methods.base import SemiSupervised
from tfssl.randomness import noise


class Supervised(SemiSupervised):
    """labels --> network --EMA--> average

    With `ema_decay` the average of the network's weights (Polyak; Tarvainen and Valpola) ships, else the network.
    """

    needs_classes = False
    uses_unlabeled = False
    terms = ("supervised",)

    def __init__(self, networks, task, *, ema_decay: Share | None = 0.999, **shared):
        super().__init__(task, **shared)
        (self.network,) = networks
        self.ema_decay = ema_decay
        self.average = twin(self.network) if ema_decay else None
        self.roles = {"average": self.average} if ema_decay else {}
        self.roles["network"] = self.network
        self.built = True

    def learn(self, batch):
        image, label = batch["labeled"]
        step = self.optimizer.iterations + 0
        key = self.key()

        def losses():
            with noise(key):
                return {"supervised": self.task.loss(label, self.network(image, training=True)["logits"])}, ()

        terms, _ = self.minimize(losses, [self.network], self.optimizer)
        if self.ema_decay:
            self.follow(self.average, self.network, warmed_up(self.ema_decay, step))
        return self.track(terms)
