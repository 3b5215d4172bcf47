--[[
  Forget the wish to cancel a job that has ended.
    KEYS[1] wishes key
    KEYS[2] active key
    KEYS[3] meta key
    KEYS[4] marker key
    ARGV[1] job key
    ARGV[2] job id
    ARGV[3] timestamp of the job: another one may have its id by now
  Output: nil where it has not ended; else when it did, or "" where it was removed.
]]
local found = redis.call("HMGET", ARGV[1], "timestamp", "finishedOn")
local isThere = (found[1] or "") == ARGV[3] and redis.call("EXISTS", ARGV[1]) == 1
if isThere and not found[2] then
  return nil
end
if redis.call("HGET", KEYS[1], ARGV[2]) == ARGV[3] then
  redis.call("HDEL", KEYS[1], ARGV[2])
end
-- While it was taken out it counted as active: under a limit of the whole queue a worker may have
-- found no room, and waits to be told that there is some.
local limits = redis.call("HMGET", KEYS[3], "paused", "concurrency")
if limits[2] and not limits[1] and redis.call("LLEN", KEYS[2]) < tonumber(limits[2]) then
  redis.call("ZADD", KEYS[4], 0, "0")
end
return isThere and found[2] or ""
