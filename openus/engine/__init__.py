"""Running tasks: processes of this machine, or a Ray cluster. Where, changes no byte of what they make.

base       what an engine is
local, ray the two there are (`child`: the process that stands beside a Ray worker)
choose     the engine that the options ask for
watch      time, memory and the culprit of a worker that died
code       identity of the code that makes samples: all machines must have the same
"""
