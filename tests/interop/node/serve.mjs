// An application with BullMQ that does what it is told, one JSON line each, until standard input
// closes: {id, do, ...} is answered by {id, value} or {id, error}; events come in between.
import { createInterface } from 'node:readline';
import { FlowProducer, Queue, QueueEvents, Worker } from 'bullmq';
import { connection, describe, emit } from './lib.mjs';

const EVENTS = [
  ...['added', 'waiting', 'active', 'progress', 'completed', 'failed', 'delayed', 'stalled'],
  ...['retries-exhausted', 'removed', 'drained', 'paused', 'resumed', 'waiting-children'],
  ...['deduplicated', 'duplicated'],
];

const opened = new Map();

function open(kind, name, make) {
  const key = `${kind} ${name}`;
  if (!opened.has(key)) {
    const thing = make();
    thing.on('error', (error) => emit({ event: 'error', queue: name, message: String(error) }));
    opened.set(key, thing);
  }
  return opened.get(key);
}

const queueOf = ({ queue, options }) =>
  open('queue', queue, () => new Queue(queue, { connection, ...options }));

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const ids = ({ job, children = [] }) => ({ id: job.id, children: children.map(ids) });

const commands = {
  // Any method of Queue's.
  call: async (given) => queueOf(given)[given.method](...given.args),

  add: async (given) => {
    const jobs = given.jobs.map(({ name = 'job', data = {}, opts }) => ({ name, data, opts }));
    return (await queueOf(given).addBulk(jobs)).map((job) => job.id);
  },

  job: async (given) => {
    const job = await queueOf(given).getJob(given.job);
    return job ? describe(job) : null;
  },

  flow: async ({ tree, options }) => {
    const producer = open('flow', '', () => new FlowProducer({ connection, ...options }));
    return ids(await producer.add(tree));
  },

  // From the stream's beginning, so that nothing is missed.
  listen: async ({ queue, options }) => {
    const start = () => new QueueEvents(queue, { connection, lastEventId: '0', ...options });
    const events = open('events', queue, start);
    for (const event of EVENTS) {
      events.on(event, (args, id) =>
        emit({ event, queue, at: Number.parseInt(id ?? args, 10), ...args }),
      );
    }
    await events.waitUntilReady();
  },

  // A Node worker on the same queue: each job takes so long, and its data comes back.
  work: async ({ queue, milliseconds = 0, options }) => {
    const run = async (job) => {
      emit({ ran: job.id, queue });
      await sleep(milliseconds);
      return job.data;
    };
    const worker = open('worker', queue, () => new Worker(queue, run, { connection, ...options }));
    await worker.waitUntilReady();
  },

  // Close one of the things opened: its kind and its queue.
  closeOne: async ({ kind, queue }) => {
    await opened.get(`${kind} ${queue}`).close();
    opened.delete(`${kind} ${queue}`);
  },

  close: async () => {
    const things = [...opened.values()].reverse();
    opened.clear();
    await Promise.all(things.map((thing) => thing.close()));
  },
};

async function serve(line) {
  const given = JSON.parse(line);
  try {
    emit({ id: given.id, value: (await commands[given.do](given)) ?? null });
  } catch (error) {
    emit({ id: given.id, error: String(error) });
  }
}

const lines = createInterface({ input: process.stdin });
lines.on('line', serve);
lines.on('close', commands.close);
