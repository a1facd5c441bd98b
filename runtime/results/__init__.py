"""The run directory: what a run leaves behind.

    run/
      record.json                  predicted against actual: jobs, devices, every step of the lists
      plan.json                    the plan that was replayed
      losses/JOB.csv               step, loss
      weights/JOB/model.safetensors    the model's state_dict; of a model of transformers what `save_pretrained` writes,
                                       and what else of a checkpoint belongs to its model (tokenizer files)
      weights/JOB/masters.safetensors  of a job in bf16: the fp32 masters of its trained parameters

It is written aside and renamed when complete, so a directory of that name is always a whole one.
"""
