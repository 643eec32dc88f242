"""What the store does inside Redis, each in one step that nobody can come between. Redis 6 and later.

Keys, all with one hash tag so that they lie on one node of a Redis cluster: an answer and its lease for each key, and the index
of all answers: a sorted set by time of last use, and a hash of their sizes in bytes with the total under `total`.
"""

LOOK_UP = """
local answer = redis.pcall('GET', KEYS[1])
if type(answer) == 'string' then
    local now = redis.call('TIME')
    redis.call('ZADD', KEYS[3], 'XX', now[1] * 1000 + math.floor(now[2] / 1000), ARGV[1])
    return {'hit', answer}
end
if answer then
    redis.call('DEL', KEYS[1])  -- no text: somebody else's
end
if redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3]) then
    return {'leader'}
end
return {redis.call('GET', KEYS[2]) == '-' and 'not_kept' or 'held'}
"""
"""Keys: answer, lease, order. Arguments: digest, token, lease in ms."""

RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return {}
"""
"""Keys: lease. Arguments: token, lease in ms."""

RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
    if tonumber(ARGV[2]) > 0 then
        redis.call('SET', KEYS[1], '-', 'PX', ARGV[2])
    else
        redis.call('DEL', KEYS[1])
    end
end
return {}
"""
"""Keys: lease. Arguments: token, how long the answer is known as not kept in ms."""

DROP = """
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
local size = redis.call('HGET', KEYS[3], ARGV[1])
if size then
    redis.call('HDEL', KEYS[3], ARGV[1])
    redis.call('HINCRBY', KEYS[3], 'total', -size)
end
return {}
"""
"""Keys: answer, order, sizes. Arguments: digest."""

PUT = """
local function remove(digest)
    redis.call('DEL', ARGV[7] .. digest)
    redis.call('ZREM', KEYS[3], digest)
    local size = redis.call('HGET', KEYS[4], digest)
    redis.call('HDEL', KEYS[4], digest)
    return tonumber(size or '0')
end

if redis.call('GET', KEYS[2]) == ARGV[2] then
    redis.call('DEL', KEYS[2])
end
if ARGV[6] ~= '1' and redis.call('EXISTS', KEYS[1]) == 1 then
    return {0}
end
local total = tonumber(redis.call('HGET', KEYS[4], 'total') or '-1')
if total < 0 or redis.call('HLEN', KEYS[4]) - 1 ~= redis.call('ZCARD', KEYS[3]) then
    -- Redis has evicted a part of the index: begin anew, with nothing that is not counted.
    for _, digest in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do remove(digest) end
    for _, digest in ipairs(redis.call('HKEYS', KEYS[4])) do
        if digest ~= 'total' then remove(digest) end
    end
    total = 0
end
total = total - remove(ARGV[1])
-- Those unused for longest are the likeliest to have expired.
for _, digest in ipairs(redis.call('ZRANGE', KEYS[3], 0, 7)) do
    if redis.call('EXISTS', ARGV[7] .. digest) == 0 then total = total - remove(digest) end
end
while total + tonumber(ARGV[4]) > tonumber(ARGV[5]) do
    local oldest = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
    if not oldest then break end
    total = total - remove(oldest)
end
local now = redis.call('TIME')
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[8])
redis.call('ZADD', KEYS[3], now[1] * 1000 + math.floor(now[2] / 1000), ARGV[1])
redis.call('HSET', KEYS[4], ARGV[1], ARGV[4], 'total', total + tonumber(ARGV[4]))
for _, key in ipairs({KEYS[3], KEYS[4]}) do
    if redis.call('PTTL', key) < tonumber(ARGV[8]) then redis.call('PEXPIRE', key, ARGV[8]) end
end
return {1}
"""
"""Keys: answer, lease, order, sizes. Arguments: digest, token, answer, its size, most bytes in all, '1' to replace, what leads
the keys of answers, time to live in ms."""
