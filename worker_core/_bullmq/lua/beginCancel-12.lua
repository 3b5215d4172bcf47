--[[
  Begin to cancel a job. One that waits becomes the token's: active and locked, to be failed by
  moveToFinished. For one that another holds the wish is kept until that one has ended it. Either is
  told on a channel that is called as the wishes key.
    KEYS[1] wait key
    KEYS[2] paused key
    KEYS[3] active key
    KEYS[4] delayed key
    KEYS[5] prioritized key
    KEYS[6] waiting-children key
    KEYS[7] completed key
    KEYS[8] failed key
    KEYS[9] wishes key
    KEYS[10] repeat key
    KEYS[11] completed metrics key
    KEYS[12] failed metrics key
    ARGV[1] key prefix of the queue
    ARGV[2] job id
    ARGV[3] token
    ARGV[4] how long the token locks the job, in milliseconds
    ARGV[5] "1": only where the wish stands already; by now it may be another job's id
  Output:
    0 there is no such job
    1 it has ended, or there is no such wish
    2 the wish is kept
    { job hash, 1 where ended jobs are counted for charts, else 0 } the job is the token's
]]
local id = ARGV[2]
local job = ARGV[1] .. id
local lock = job .. ":lock"

local function isIn(sortedSet)
  return redis.call("ZSCORE", sortedSet, id)
end

-- The wish of a canceller that died in the last moment may still stand.
if isIn(KEYS[7]) or isIn(KEYS[8]) then
  redis.call("HDEL", KEYS[9], id)
  return 1
end
if redis.call("TYPE", job)["ok"] ~= "hash" then
  redis.call("HDEL", KEYS[9], id)
  return 0
end
local born = redis.call("HGET", job, "timestamp") or ""
local isWished = redis.call("HGET", KEYS[9], id) == born
if ARGV[5] == "1" and not isWished then
  return 1
end

-- Where it waits, and how it is taken from there; neither for a job that is active.
local sortedSet, list
if isIn(KEYS[4]) then
  sortedSet = KEYS[4]
elseif isIn(KEYS[5]) then
  sortedSet = KEYS[5]
elseif isIn(KEYS[6]) then
  sortedSet = KEYS[6]
elseif not redis.call("LPOS", KEYS[3], id) then
  if redis.call("LPOS", KEYS[1], id) then
    list = KEYS[1]
  elseif redis.call("LPOS", KEYS[2], id) then
    list = KEYS[2]
  else
    return 0
  end
end

if not isWished then
  redis.call("HSET", KEYS[9], id, born)
  -- Not called: a user who may not publish may still cancel, and is heard later.
  redis.pcall("PUBLISH", KEYS[9], id)
end

local holder = redis.call("GET", lock)
if holder ~= ARGV[3] then
  if holder and not sortedSet and not list then
    return 2
  end
  -- Its scheduler stands still until a worker claims it and makes the next one.
  local scheduler = redis.call("HGET", job, "rjk")
  if scheduler and (redis.call("EXISTS", KEYS[10] .. ":" .. scheduler) == 1
      or redis.call("ZSCORE", KEYS[10], scheduler)) then
    return 2
  end
  if sortedSet then
    redis.call("ZREM", sortedSet, id)
  elseif list then
    redis.call("LREM", list, 1, id)
  end
  if sortedSet or list then
    redis.call("LPUSH", KEYS[3], id)
  end
  -- An active job without a lock is nobody's: its worker has died.
  redis.call("SET", lock, ARGV[3], "PX", ARGV[4])
end
return { redis.call("HGETALL", job), redis.call("EXISTS", KEYS[11], KEYS[12]) > 0 and 1 or 0 }
