# The low three bits of each byte of the input, rsi bytes at 0x20000, are the number of a function. The bug: there are four of
# them. Behind the table of functions is that of their names, and a name begins with its length: no instruction.
    mov rbx, 0x20000
    add rsi, rbx
next:
    cmp rbx, rsi
    jae done
    movzx eax, byte ptr [rbx]
    inc rbx
    and eax, 7
.if FIXED
    cmp eax, 4
    jae next
.endif
    call [functions + 8 * rax]
    jmp next
done:
    hlt

nothing:
    ret
upward:
    inc r8
    ret
recede:
    dec r8
    ret
forget:
    xor r8d, r8d
    ret

    .section .rodata
    .balign 8
functions:
    .quad nothing, upward, recede, forget
names:
    .quad name_0, name_1, name_2, name_3
name_0: .ascii "\7nothing"      # 6 and 7 were instructions of 32-bit code
name_1: .ascii "\6upward"
name_2: .ascii "\6recede"
name_3: .ascii "\6forget"
