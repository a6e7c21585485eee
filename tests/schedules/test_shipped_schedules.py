"""The schedules in the package: they load, their cards fit, and they guide the runs they were trained for."""

import l2o
from l2o.tasks.gan import GAN


def test_shipped_schedules_guide_the_runs_they_were_trained_for():
    assert "digits-gan" in l2o.shipped("schedules")
    schedule, card = l2o.load_schedule("digits-gan"), l2o.load_card("digits-gan")
    assert card.curve
    assert card.horizon == schedule.horizon
    family = GAN.digits(samples=20)
    assert card.training_tasks == family.name
    settings = l2o.Settings(dict.fromkeys(family.groups, l2o.Adam(5e-4, beta1=0.5)), validate_every=5, patience=None)
    ran = l2o.run_schedule(schedule, family, settings, l2o.Stream(1, tasks=range(2)), steps=10)
    assert ran.choices.shape == (2, 10)
    assert set(ran.choices.flatten().tolist()) <= {0, 1}
