// A QueueEvents listener from the stream's beginning until standard input closes. {queue}
import { emit, input, queueEvents, run, stdinClosed } from './lib.mjs';

const EVENTS = [
  ...['added', 'waiting', 'active', 'progress', 'completed', 'failed', 'delayed', 'stalled'],
  ...['retries-exhausted', 'removed', 'drained', 'paused', 'resumed', 'waiting-children'],
];

await run(async () => {
  const events = await queueEvents(input.queue);
  for (const event of EVENTS) {
    events.on(event, (args, id) => emit({ event, at: Number.parseInt(id ?? args, 10), ...args }));
  }
  emit({ event: 'listening' });
  await stdinClosed();
});
