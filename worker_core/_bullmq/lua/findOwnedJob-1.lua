--[[
  Find the job that a token owns, after the reply to a claim was lost.
  Active jobs are walked from the newest: the job asked for was claimed a moment ago.
    KEYS[1] active key
    ARGV[1] key prefix of the queue
    ARGV[2] token
  Output: { job hash, id } as moveToActive gives them, or nil.
]]
local ids = redis.call("LRANGE", KEYS[1], 0, -1)
for _, id in ipairs(ids) do
  if redis.call("GET", ARGV[1] .. id .. ":lock") == ARGV[2] then
    return { redis.call("HGETALL", ARGV[1] .. id), id }
  end
end
return nil
