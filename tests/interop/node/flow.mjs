// A parent in `parentQueue` with children in `queue`; ends when the parent has ended.
// {parentQueue, queue, children: [{name, data, opts}], waitMs}
import { FlowProducer, Queue } from 'bullmq';
import { closing, connection, describe, emit, input, queueEvents, run } from './lib.mjs';

await run(async () => {
  const events = await queueEvents(input.parentQueue);
  const queue = closing(new Queue(input.parentQueue, { connection }));
  const producer = closing(new FlowProducer({ connection }));
  const tree = await producer.add({
    name: 'parent',
    queueName: input.parentQueue,
    data: input.parentData ?? {},
    children: input.children.map((child) => ({ name: 'child', queueName: input.queue, ...child })),
  });
  emit({ parent: tree.job.id, children: tree.children.map((child) => child.job.id) });
  try {
    emit({ returnvalue: await tree.job.waitUntilFinished(events, input.waitMs) });
  } catch (error) {
    emit({ error: error.message });
  }
  emit({ job: await describe(await queue.getJob(tree.job.id)) });
});
