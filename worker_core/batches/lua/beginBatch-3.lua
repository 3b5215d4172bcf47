--[[
  Begin or resume a batch, and return its state.
    KEYS[1] requests key
    KEYS[2] items key
    KEYS[3] state key
    ARGV[1] when the job was added, in milliseconds since the epoch
    ARGV[2] how many items it has
    ARGV[3] its timeout in milliseconds, or ""
    ARGV[4] how long all is kept, in milliseconds
  Output: the state, as HGETALL gives it
]]
local born = redis.call("HGET", KEYS[3], "born")
if born and born ~= ARGV[1] then
  -- Of an earlier job with the same id. Its requests may have been stored anew already.
  redis.call("UNLINK", KEYS[2], KEYS[3])
end
redis.call("HSETNX", KEYS[3], "status", "validating")
redis.call("HSET", KEYS[3], "born", ARGV[1], "total", ARGV[2], "timeout_ms", ARGV[3])
for i = 1, 3 do
  redis.call("PEXPIRE", KEYS[i], ARGV[4])
end
return redis.call("HGETALL", KEYS[3])
