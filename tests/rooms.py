"""Where runs look up what trains, judges and executes: what a test puts something else in place of."""
from biossl.train import execution, jobs, pool, together

ROOM = dict(pretrain=jobs, finetune=execution, probe=execution, untrained_embedding=execution,
            pretrain_stack=together, finetune_stack=together, execute=pool)
