--[[
  Forget the wishes to cancel jobs that have ended, and list the others.
    KEYS[1] wishes key
    KEYS[2] completed key
    KEYS[3] failed key
    ARGV[1] key prefix of the queue
  Output: the ids of the jobs that are to be cancelled
]]
local wishes = redis.call("HGETALL", KEYS[1])
local standing = {}
for i = 1, #wishes, 2 do
  local id, job = wishes[i], ARGV[1] .. wishes[i]
  if redis.call("EXISTS", job) == 0
      or (redis.call("HGET", job, "timestamp") or "") ~= wishes[i + 1]
      or redis.call("ZSCORE", KEYS[2], id)
      or redis.call("ZSCORE", KEYS[3], id) then
    redis.call("HDEL", KEYS[1], id)
  else
    standing[#standing + 1] = id
  end
end
return standing
