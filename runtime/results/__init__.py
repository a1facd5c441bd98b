"""The run directory: what a run leaves behind, and what is there while it goes on.

    run/
      record.json                  how far each job came; at the end predicted against actual: jobs, devices, times
      plan.json                    the plan that was replayed
      losses/JOB.csv               step, loss; a row as soon as it is known
      weights/JOB/model.safetensors    the model's state_dict; of a model of transformers what `save_pretrained` writes,
                                       and what else of a checkpoint belongs to its model (tokenizer files)
      weights/JOB/masters.safetensors  of a job in bf16: the fp32 masters of its trained parameters
      .partial/                    what is being written, and gets its name when it is whole

Weights are there as soon as their job has finished, each file whole or not at all, whenever the run ends.

directory (names, lock) -> record -> keeper (writes while jobs train; weights by runtime.saving)
result: what `execute` gives
"""
