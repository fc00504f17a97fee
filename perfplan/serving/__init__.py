"""Serving: what fits, what a step costs, what a deployment delivers.

The functions that other rooms build on:

    job = ServingJob(model, cluster, gpus, engine, number_format("fp8"))     # serving.job
    layout = ServingLayout.parse("tp4 pp2 adp2 ep8 dp2")                      # serving.layout
    legal(job, gpus)                        -> every layout that the model allows on so many accelerators
    fit(job, layout, context)               -> Fit: weights, cache per token, pool, tokens, sequences   # serving.memory
    step_parts(job, net, layout, Load(...)) -> seconds by op of one step, numbers or columns            # serving.step
    decode_step(job, net, layout, batch, context)   -> the same for a decode step of `batch` per attention rank
    prompt_step(job, net, layout, tokens, length)   -> the same for a step with prompts
    steady(job, layout, isl, osl, concurrency)      -> Steady: TTFT, TPOT, rate, by op      # serving.estimate
    static_batch(job, layout, isl, osl, batch)      -> Steady of one fixed batch
    at_rate(job, layout, isl, osl, rate)            -> Steady of open-loop arrivals below saturation
    finite_test(job, layout, isl, osl, requests, rate)   -> Steady of so many requests, at a rate or all at once

Every argument after the layout may be a NumPy column, except where a function says otherwise.
"""
