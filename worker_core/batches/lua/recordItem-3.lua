--[[
  Record how an item ended; the first outcome counts.
    KEYS[1] requests key
    KEYS[2] items key
    KEYS[3] state key
    ARGV[1] index of the item
    ARGV[2] its outcome
    ARGV[3] "completed" or "failed"
    ARGV[4] prompt tokens
    ARGV[5] completion tokens
    ARGV[6] how long all is kept, in milliseconds
  Output: 1 recorded, 0 there was an outcome already
]]
local isNew = redis.call("HSETNX", KEYS[2], ARGV[1], ARGV[2])
if isNew == 1 then
  redis.call("HINCRBY", KEYS[3], ARGV[3], 1)
  redis.call("HINCRBY", KEYS[3], "prompt_tokens", ARGV[4])
  redis.call("HINCRBY", KEYS[3], "completion_tokens", ARGV[5])
  redis.call("HDEL", KEYS[3], "waiting_since_ms")
end
for i = 1, 3 do
  redis.call("PEXPIRE", KEYS[i], ARGV[6])
end
return isNew
